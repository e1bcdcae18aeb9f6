"""What happens to a controller or a worker, and what they ask for. Times are ms on the caller's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.control import Control
from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.options import PLAIN, GenerationOptions
from wanspec.core.rounds import Round
from wanspec.core.sampling import GREEDY, Sampling
from wanspec.core.tree import Origin
from wanspec.core.workercounters import SequenceRecord

ActionId: TypeAlias = tuple[int, int]
"""(sequence, counter). A counter per sequence, so that one sequence's log replays alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the core sees it.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens to generate, at least one.
        end_ids: tokens that end the output; the one met is not part of it.
        policy: name in ``wanspec.core.policies.POLICIES``; empty for the controller's default, which may change while
            the request runs, and goes without parameters here.
        parameters: the policy's parameters by name.
        record: keep an event log of this request (``Finished.log``).
        deadline_ms: longest the whole request may take, 0 for no limit of its own.
        traceparent: W3C trace context of the caller, empty for none.
        sampling: how the target draws its tokens.
        options: what else it is to observe.
        conversation: names the conversation that it is a turn of, for reuse of earlier ones; empty for none.
        log_probs: the client wants the log-probabilities of its tokens.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    end_ids: frozenset[int] = frozenset()
    policy: str = DEFAULT_POLICY
    parameters: dict[str, float | int | str] = field(default_factory=dict)
    record: bool = False
    deadline_ms: float = 0.0
    traceparent: str = ""
    sampling: Sampling = GREEDY
    options: GenerationOptions = PLAIN
    conversation: str = ""
    log_probs: bool = False

    @property
    def reserved(self) -> int:
        """Most tokens that prompt and answer can have together."""
        return len(self.prompt) + self.max_tokens


# Events of a controller


Claims: TypeAlias = tuple[tuple[int, int], ...]
"""(link, tokens): how many of a prompt's first tokens the link's worker should have."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A new request; ``sequence`` is a number the caller has not used before.

    ``waited_ms``: how long it has waited for its turn already. ``claims``: by link, how many tokens of the prompt its
    worker should have from earlier sequences; None lets the controller look. Only recorded logs hold them.
    """

    sequence: int
    request: Request
    waited_ms: float = 0.0
    claims: Claims | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client no longer wants the answer."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Verified:
    """The target has answered a :class:`Verify`.

    ``tokens`` are the accepted drafts and one token of the target's own; ``log_probs`` are theirs under the target,
    empty where the engine gives none. ``engine_ms`` is the engine's own time, without queueing. ``blocks`` are those of
    KV cache, where they were asked for and are known: newly allocated, reused, allocated in all.
    """

    action: ActionId
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    engine_ms: float
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Drafted:
    """The local draft has answered a :class:`Draft`. Fields as in :class:`Verified`."""

    action: ActionId
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    engine_ms: float


@dataclass(frozen=True, slots=True)
class Failed:
    """An engine call ended in an error."""

    action: ActionId
    error: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A link's transport is up; nothing has been said on it yet."""

    link: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A link's transport is gone, or could not be had."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """One encoded frame has arrived on a link."""

    link: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: ``deadline()`` is reached."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A measurement made on behalf of another sequence; only recorded logs hold it."""

    name: str
    value_ms: float


@dataclass(frozen=True, slots=True)
class Controlled:
    """An operator has set the switches; running sequences follow from their next decision on."""

    control: Control


_Told: TypeAlias = Submitted | Cancelled | Observed | Controlled
_Answered: TypeAlias = Verified | Drafted | Failed
Event: TypeAlias = _Told | _Answered | Connected | Disconnected | Received | Tick

# Actions of a controller


@dataclass(frozen=True, slots=True)
class Verify:
    """Run the target once over ``drafts`` after the first ``length`` tokens of ``prefix`` (not to be modified).

    ``sampling`` and ``options`` hold for every token of this pass; ``stop_words`` and ``min_tokens`` are not for the
    engine. ``blocks``: say what it took of the KV cache.
    """

    action: ActionId
    prefix: Sequence[int]
    length: int
    drafts: tuple[int, ...]
    log_probs: bool
    sampling: Sampling = GREEDY
    options: GenerationOptions = PLAIN
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """Draft ``count`` tokens locally after the prefix and ``path``. Fields as in :class:`Verify`."""

    action: ActionId
    prefix: Sequence[int]
    length: int
    path: tuple[int, ...]
    count: int
    sampling: Sampling = GREEDY
    options: GenerationOptions = PLAIN


@dataclass(frozen=True, slots=True)
class Abort:
    """Nobody needs the answer of this engine call any more. A late answer is ignored."""

    action: ActionId


@dataclass(frozen=True, slots=True)
class Connect:
    """Bring up a link's transport; answered by :class:`Connected` or :class:`Disconnected`."""

    link: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Drop a link's transport, if it is up."""

    link: int
    reason: str


class Send(NamedTuple):
    """Send an encoded frame on a link. ``opening`` marks the first of a connection, whose request stays open."""

    link: int
    data: bytes
    opening: bool = False


@dataclass(frozen=True, slots=True)
class Emit:
    """Committed tokens of a sequence, for the client, with who proposed each, and their log-probabilities if wanted."""

    sequence: int
    tokens: tuple[int, ...]
    origins: tuple[Origin, ...]
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The sequence has ended. ``reason``: ``stop``, ``length``, ``cancelled``, ``deadline`` or ``error``.

    ``rounds``: all of them; the last one is without tokens where the end came amid a round. Their times count from
    ``submitted_ms``, on the caller's clock.
    """

    sequence: int
    reason: str
    summary: dict[str, object]
    error: str = ""
    log: tuple[str, ...] = ()
    rounds: tuple[Round, ...] = ()
    submitted_ms: float = 0.0


Action: TypeAlias = Verify | Draft | Abort | Connect | Disconnect | Send | Emit | Finished

# Events and actions of a worker only


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """A controller has opened a link; ``data`` is its first frame."""

    link: int
    data: bytes


class Steered(NamedTuple):
    """A frame of a controller, other than the first of a link."""

    data: bytes


class Expanded(NamedTuple):
    """A draft pass is done."""

    number: int
    expansion: Expansion


@dataclass(frozen=True, slots=True)
class ExpandFailed:
    """A draft pass failed."""

    number: int
    error: str


WorkerEvent: TypeAlias = LinkOpened | Steered | Disconnected | Expanded | ExpandFailed | Tick


class Expand(NamedTuple):
    """Run one draft pass; at most one is under way at a time."""

    number: int
    batch: tuple[SequenceLeaves, ...]
    top: int


@dataclass(frozen=True, slots=True)
class Release:
    """The draft engine may forget a sequence."""

    key: object


@dataclass(frozen=True, slots=True)
class Traced:
    """A sequence that its controller traces has ended: what was done for it."""

    record: SequenceRecord


WorkerAction: TypeAlias = Send | Disconnect | Expand | Release | Traced
