"""Messages between a controller and a worker. `docs/protocol.md` describes every field.

A frame is what one Triton request or response carries: a header and any number of messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import NamedTuple, TypeAlias

PROTOCOL_VERSION = 3
MAX_LENGTH = 0xFFFFFFFF
"""Most tokens that a message can say a sequence has."""
MOST_NODES = 0xFFFF
"""Of one message."""
ROOT = 0xFFFFFFFF
"""Parent number of a node that hangs below the committed prefix of the stated length."""


def microseconds(now: float) -> int:
    """A time in ms as headers carry it: 1 at least, since 0 stands for none."""
    time = int(now * 1000.0)
    return time if time > 0 else 1


class RefuseCode(IntEnum):
    """Why a worker refuses a link."""

    VERSION = 1
    TOKENIZER = 2
    VOCABULARY = 3
    AUTHENTICATION = 4
    BUSY = 5


class LostCode(IntEnum):
    """Why a worker no longer drafts for a sequence."""

    UNKNOWN = 1
    DESYNC = 2
    GAP = 3
    CONTEXT = 4
    ENGINE = 5
    BUSY = 6
    PREFIX = 7


class Header(NamedTuple):
    """What every frame begins with. Times are microseconds on the clock of their sender.

    Attributes:
        sender: the first 8 bytes of the sending instance's UUID; names its clock too.
        number: counts the sender's frames on this link.
        sent: when this frame was sent.
        echo: ``sent`` of the last frame received from the peer, 0 before the first.
        echo_received: when that frame arrived, on this sender's clock.
        want_reply: the peer answers at once, with an empty frame if it has nothing to say.
    """

    sender: int
    number: int
    sent: int
    echo: int = 0
    echo_received: int = 0
    want_reply: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a link, from the controller: who it is and which models it runs."""

    instance: bytes
    vocab_size: int
    tokenizer_hash: bytes
    draft_id: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The worker accepts the link."""

    instance: bytes
    vocab_size: int
    tokenizer_hash: bytes
    draft_id: str
    max_sequences: int
    context: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The worker refuses the link; ``reason`` says what differs."""

    code: RefuseCode
    reason: str


@dataclass(frozen=True, slots=True)
class Drafting:
    """How the worker drafts for a sequence.

    Attributes:
        branching: most children kept of a leaf (paper: b).
        theta: entropy in nats below which only the most likely child is kept (paper: theta).
        width: most leaves expanded in one pass (paper: s).
        max_depth: leaves this far below the root are not expanded.
        floor: nor are leaves whose path from the root is less probable than this.
        keep: children whose path from the root is less probable than this are neither kept nor sent.
        calibrated: probabilities are those that drafts were found to have, not those that the draft model states.
        temperature, top_k, top_p, seed: the request's sampling parameters; temperature 0 is greedy.
    """

    branching: int = 2
    theta: float = 0.5
    width: int = 4
    max_depth: int = 24
    floor: float = 0.0
    keep: float = 0.0
    calibrated: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """Draft for a sequence from here on. An ``epoch`` above the known one replaces what was there.

    Attributes:
        tokens: those that follow the named prefix, or the first of them.
        hash: of the prefix and ``tokens``.
        following: tokens that come in commits, as the later pieces of a long prompt, before drafting begins.
        prefix_length, prefix_hash: name tokens of an ended sequence that the worker still has; a length of 0 for none.
    """

    sequence: int
    epoch: int
    tokens: tuple[int, ...]
    hash: int
    drafting: Drafting = field(default_factory=Drafting)
    traceparent: str = ""
    following: int = 0
    prefix_length: int = 0
    prefix_hash: int = 0

    @property
    def length(self) -> int:
        """Committed tokens from which drafting begins."""
        return self.prefix_length + len(self.tokens) + self.following


class Commit(NamedTuple):
    """Tokens the target chose. ``from_length`` is the committed length before them, ``hash`` the hash after them."""

    sequence: int
    epoch: int
    from_length: int
    hash: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """The sequence has ended; its state can go."""

    sequence: int
    epoch: int


class DraftNode(NamedTuple):
    """One node of a worker's tree; its number follows from its place in :class:`Drafts`."""

    parent: int
    token: int
    log_prob: float


make_node: Callable[[tuple[int, int, float]], DraftNode] = partial(tuple.__new__, DraftNode)
"""``DraftNode._make`` without a call in Python: nodes are made by the dozen in every pass."""


class Drafts(NamedTuple):
    """New nodes of one sequence, from one pass or several.

    Attributes:
        length: committed length the worker had seen when it sent this.
        hash: its hash of the prefix at that length.
        first: number of the first node; the others follow.
        passes: worker passes spent on the sequence so far in this epoch.
        nodes: in order, parents before children. A parent of ``ROOT`` is the prefix of ``length`` tokens.
    """

    sequence: int
    epoch: int
    length: int
    hash: int
    first: int
    passes: int
    nodes: tuple[DraftNode, ...]


class PassReport(NamedTuple):
    """The last draft pass behind the drafts of this frame: its time and how long its leaves had waited, both in ms.

    ``prefills`` counts the sequences whose first pass it was, or part of whose prompt: prompts were computed in it.
    """

    pass_ms: float
    queue_ms: float
    leaves: int
    sequences: int
    prefills: int = 0


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The worker has begun to draft: of ``length`` tokens it computed so many, the KV cache held the others."""

    sequence: int
    epoch: int
    length: int
    computed: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker has given up a sequence; the controller may open it again in a new epoch."""

    sequence: int
    epoch: int
    code: LostCode
    length: int


Message: TypeAlias = Hello | Welcome | Refuse | Open | Commit | Close | Drafts | PassReport | Prefilled | Lost


class Frame(NamedTuple):
    """A header and its messages."""

    header: Header
    messages: tuple[Message, ...] = ()
