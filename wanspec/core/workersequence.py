"""One sequence on a worker: its committed prefix, its tree, and what arrived too early."""

from __future__ import annotations

from math import inf, log
from typing import NamedTuple, TypeAlias

from wanspec.core.calibration import Calibration
from wanspec.core.config import WorkerConfig
from wanspec.core.coupling import coupled_acceptance, sampling_of
from wanspec.core.kept import Kept
from wanspec.core.messages import ROOT, Commit, DraftNode, Drafts, Open, make, make_node
from wanspec.core.prefix import PrefixHashes
from wanspec.core.scheduler import Frontier
from wanspec.core.tree import LIVE, Node, Origin, TokenTree
from wanspec.core.workercounters import SequenceRecord

Key: TypeAlias = tuple[bytes, int]
"""(instance UUID of the controller, its number of the sequence)."""

_MAX_HELD = 64
_REMOTE = Origin.REMOTE


class Children(NamedTuple):
    """What the draft says of some leaves, as in :class:`~wanspec.core.drafting.Expansion`, out of its arrays."""

    tokens: list[list[int]]
    log_probs: list[list[float]]
    entropies: list[float]
    margins: list[float] | None

    def part(self, start: int, stop: int) -> Children:
        """The rows of some of the leaves."""
        if start == 0 and stop == len(self.tokens):
            return self
        rows = slice(start, stop)
        margins = None if self.margins is None else self.margins[rows]
        return Children(self.tokens[rows], self.log_probs[rows], self.entropies[rows], margins)


class WorkerSequence:
    """What a worker knows of a sequence, in one epoch.

    Attributes:
        computed: how many of its first tokens should be in the engine's KV cache.
        prefilled: tokens that the engine has computed before the first leaf.
        record: of its passes; None where the controller does not trace it.
    """

    def __init__(
        self,
        key: Key,
        link: int,
        opened: Open,
        now: float,
        calibration: Calibration | None = None,
        prefix: Kept | None = None,
    ) -> None:
        """``prefix``: what has the first ``opened.prefix_length`` tokens."""
        self.key = key
        self.link = link
        self.epoch = opened.epoch
        self.engine_key = (*key, opened.epoch)
        self.sender = int.from_bytes(key[0][:8], "little")
        self.drafting = opened.drafting
        self.sampling = sampling_of(opened)
        self.record = _record_of(opened, now) if is_sampled(opened.traceparent) else None
        self.computed = opened.prefix_length
        self.prefilled = 0
        known = [] if prefix is None else prefix.tokens[: opened.prefix_length]
        self.tree = TokenTree([*known, *opened.tokens])
        self.frontier = Frontier(self.tree.root)
        self.passes = 0
        self.closed = False
        self.heard_ms = now
        self.hashes = PrefixHashes() if prefix is None else prefix.hashes.until(opened.prefix_length)
        self.hashes.extend(opened.tokens)
        self._begins = opened.length
        self._next_number = 0
        self._held: dict[int, Commit] = {}
        self._held_since: float | None = None
        self._calibration = calibration if opened.drafting.calibrated else None
        self._keep = log(opened.drafting.keep) if opened.drafting.keep > 0.0 else -inf

    @property
    def length(self) -> int:
        """Committed tokens, prompt included."""
        return len(self.tree.tokens)

    @property
    def complete(self) -> bool:
        """Whether all of the prompt has come."""
        return len(self.tree.tokens) >= self._begins

    @property
    def hash(self) -> int:
        """Hash of the committed prefix."""
        return self.hashes[self.length]

    def deadline(self, config: WorkerConfig) -> float:
        """When a missing commit, or silence, is no longer waited for."""
        idle = self.heard_ms + config.idle_ms
        return idle if self._held_since is None else min(idle, self._held_since + config.gap_ms)

    def hold(self, message: Commit, now: float) -> None:
        """Keep a commit that came before the one it follows."""
        if len(self._held) < _MAX_HELD:
            self._held[message.from_length] = message
        if self._held_since is None:
            self._held_since = now

    def commit(self, message: Commit) -> bool:
        """Apply a commit that starts at or before the current length, and those held that follow from it.

        Returns:
            False on a desynchronisation: the prefix hashes differ.
        """
        following: Commit | None = message
        while following is not None:
            if not self._apply(following):
                return False
            following = self._held.pop(self.length, None)
        if not any(start > self.length for start in self._held):
            self._held.clear()
            self._held_since = None
        return True

    def grow(self, leaves: list[Node], children: Children, now: float) -> tuple[Drafts | None, int]:
        """Add the children of expanded leaves (Algorithm 2, step 3).

        Args:
            leaves: the nodes that were expanded; commits may have pruned them since.
            children: a row for each leaf.
            now: ms.

        Returns:
            What to send, None if nothing came of it, and how many leaves were wasted.
        """
        self.passes += 1
        first, new, wasted = self._next_number, list[DraftNode](), 0
        theta, branching = self.drafting.theta, self.drafting.branching
        margins = None if self.sampling is None else children.margins
        for row, leaf in enumerate(leaves):
            if leaf.state is not LIVE:
                wasted += 1
                continue
            keep = 1 if children.entropies[row] < theta else branching
            tokens, values = children.tokens[row], children.log_probs[row]
            if margins is not None:
                values = [log(coupled_acceptance(margins[row], rank)) for rank in range(len(values))]
            self._extend(leaf, tokens[:keep], values[:keep], new, now)
        if not new:
            return None, wasted
        length = len(self.tree.tokens)
        fields = (self.key[1], self.epoch, length, self.hashes[length], first, self.passes, tuple(new))
        return make(Drafts, fields), wasted

    def _extend(self, leaf: Node, tokens: list[int], log_probs: list[float], new: list[DraftNode], now: float) -> None:
        """Add a leaf's children, those that are probable enough, and to ``new`` what to send of them."""
        tree, calibration, frontier = self.tree, self._calibration, self.frontier
        parent = ROOT if leaf is tree.root else leaf.number
        above, least = leaf.score, tree.root.score + self._keep
        for rank, (token, log_prob) in enumerate(zip(tokens, log_probs, strict=True)):
            score = above + (log_prob if calibration is None else log(calibration.chance(log_prob, rank)))
            if score < least:
                continue
            node = tree.add(leaf, token, log_prob, _REMOTE, now, rank)
            if node is not None and node.number < 0:
                node.score = score
                node.number = self._next_number
                self._next_number += 1
                frontier.add(node)
                new.append(make_node((parent, token, log_prob)))

    def _learn(self, tokens: tuple[int, ...]) -> None:
        """Count, for every draft at a position that has just been committed, whether it was right."""
        assert self._calibration is not None
        node: Node | None = self.tree.root
        for token in tokens:
            if node is None or not node.children:
                return
            for child in node.children:
                self._calibration.observe(child.log_prob, child.rank, child.token == token)
            node = node.child(token)

    def _apply(self, message: Commit) -> bool:
        fresh = message.tokens[self.length - message.from_length :]
        self.hashes.extend(fresh)
        if self._calibration is not None:
            self._learn(fresh)
        if self.tree.descend(fresh) < len(fresh):
            self.frontier = Frontier(self.tree.root)
        elif fresh:
            self.frontier.moved(self.tree.size)
        return self.hashes[message.from_length + len(message.tokens)] == message.hash


def is_sampled(traceparent: str) -> bool:
    """Whether a W3C trace context says that its trace is recorded."""
    try:
        return bool(int(traceparent[53:55], 16) & 1)
    except ValueError:
        return False


def _record_of(opened: Open, now: float) -> SequenceRecord:
    return SequenceRecord(opened.sequence, opened.epoch, opened.traceparent, now, prompt_tokens=opened.length)
