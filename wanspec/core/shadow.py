"""A worker's drafts that are never verified: what they would have saved is counted. One object a sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from wanspec.core.arrivals import Arrivals
from wanspec.core.estimators import Estimators
from wanspec.core.tree import TokenTree

COUNTS = ("rounds", "tokens", "tokens_covered", "passes", "passes_covered")


class Shadow:
    """The worker's tree beside the one that decoding uses.

    Both are rooted at the last committed token. A chain that covers a token is known to do so only where the target
    chose that token, so that what lies beyond a round's committed tokens is not counted.

    Attributes:
        tree: the worker's drafts.
        arrivals: measures them as it would if they were verified.
    """

    def __init__(self, tokens: Sequence[int], estimators: Estimators, counts: Counter[str]) -> None:
        """``counts`` (by :data:`COUNTS`) is added to."""
        self.tree = TokenTree(tokens)
        self.arrivals = Arrivals(self.tree, estimators)
        self._counts = counts
        self._spared = 0
        self._chain: list[int] = []

    def drafting(self, length: int, count: int) -> None:
        """``count`` tokens are to be drafted locally after ``length`` drafts: as many may be here already."""
        self._spared = min(count, max(0, len(self.tree.best_path(length + count)) - length))

    def drafted(self, passes: int) -> None:
        """The local draft has made passes for it."""
        self._counts["passes"] += passes
        self._counts["passes_covered"] += min(passes, self._spared)

    def verifying(self, limit: int) -> None:
        """The target is called: this is the chain, of ``limit`` drafts at most, that it would have been given."""
        self._chain = [node.token for node in self.tree.best_path(limit)]

    def committing(self, tokens: tuple[int, ...], now: float) -> None:
        """A round's tokens are known: compare, and commit them here too."""
        covered = 0
        for token, foreseen in zip(tokens, self._chain, strict=False):
            if token != foreseen:
                break
            covered += 1
        self._counts["rounds"] += 1
        self._counts["tokens"] += len(tokens)
        self._counts["tokens_covered"] += covered
        arrival = self.arrivals.committing(tokens, now)
        self.tree.descend(tokens)
        self.tree.root.arrival_ms = arrival
