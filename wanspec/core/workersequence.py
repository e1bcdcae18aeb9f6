"""One sequence on a worker: its committed prefix, its tree, and what arrived too early."""

from __future__ import annotations

from math import log
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wanspec.core.config import WorkerConfig
from wanspec.core.coupling import coupled_acceptance, sampling_of
from wanspec.core.messages import ROOT, Commit, DraftNode, Drafts, Open
from wanspec.core.prefix import PrefixHashes
from wanspec.core.tree import Node, NodeState, Origin, TokenTree

Key: TypeAlias = tuple[bytes, int]
"""(instance UUID of the controller, its number of the sequence)."""

_MAX_HELD = 64


class WorkerSequence:
    """What a worker knows of a sequence, in one epoch."""

    def __init__(self, key: Key, link: int, opened: Open, now: float) -> None:
        self.key = key
        self.link = link
        self.epoch = opened.epoch
        self.engine_key = (*key, opened.epoch)
        self.drafting = opened.drafting
        self.sampling = sampling_of(opened)
        self.tree = TokenTree(opened.tokens)
        self.passes = 0
        self.closed = False
        self.heard_ms = now
        self._hashes = PrefixHashes(opened.tokens)
        self._next_number = 0
        self._held: dict[int, Commit] = {}
        self._held_since: float | None = None

    @property
    def length(self) -> int:
        """Committed tokens, prompt included."""
        return len(self.tree.tokens)

    @property
    def hash(self) -> int:
        """Hash of the committed prefix."""
        return self._hashes[self.length]

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

    def grow(
        self,
        leaves: list[Node],
        tokens: NDArray[np.int32],
        log_probs: NDArray[np.float32],
        entropies: NDArray[np.float32],
        margins: NDArray[np.float32] | None,
        now: float,
    ) -> tuple[Drafts | None, int]:
        """Add the children of expanded leaves (Algorithm 2, step 3).

        Args:
            leaves: the nodes that were expanded; commits may have pruned them since.
            tokens: int32 [leaves, m], best first.
            log_probs: float32 [leaves, m].
            entropies: float32 [leaves], nats.
            margins: float32 [leaves] or None, as in :class:`~wanspec.core.drafting.Expansion`.
            now: ms.

        Returns:
            What to send, None if nothing came of it, and how many leaves were wasted.
        """
        self.passes += 1
        first, new, wasted = self._next_number, [], 0
        tree, theta, branching = self.tree, self.drafting.theta, self.drafting.branching
        rows = zip(leaves, tokens.tolist(), log_probs.tolist(), entropies.tolist(), strict=True)
        for row, (leaf, children, values, entropy) in enumerate(rows):
            if leaf.state is not NodeState.LIVE:
                wasted += 1
                continue
            keep = 1 if entropy < theta else branching
            parent = ROOT if leaf is tree.root else leaf.number
            if self.sampling is not None and margins is not None:
                values = [log(coupled_acceptance(float(margins[row]), rank)) for rank in range(len(values))]
            for rank, (token, log_prob) in enumerate(zip(children[:keep], values, strict=False)):
                node = tree.add(leaf, token, log_prob, Origin.REMOTE, now, rank)
                if node is not None and node.number < 0:
                    node.number = self._next_number
                    self._next_number += 1
                    new.append(DraftNode(parent, token, log_prob))
        if not new:
            return None, wasted
        key = self.key[1]
        return Drafts(key, self.epoch, self.length, self.hash, first, self.passes, tuple(new)), wasted

    def _apply(self, message: Commit) -> bool:
        fresh = message.tokens[self.length - message.from_length :]
        self._hashes.extend(fresh)
        self.tree.descend(fresh)
        return self._hashes[message.from_length + len(message.tokens)] == message.hash
