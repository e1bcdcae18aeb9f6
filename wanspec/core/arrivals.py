"""When a worker's drafts of a sequence are due, as far as the controller can know."""

from __future__ import annotations

from wanspec.core.estimators import Estimators, outcome_name
from wanspec.core.tree import Node, Origin, TokenTree

_PASS_MS = 10.0


class Arrivals:
    """One sequence's forecast. All times in ms.

    ``arrival_ms`` of a node is when the worker's copy of it arrived. For a root that the worker has not sent it is when
    it would have to have arrived for its children to come when they are expected: a pass later.

    Attributes:
        heard_ms: when drafts of the sequence last arrived.
        measured: samples for :meth:`Estimators.observe`, until taken.
    """

    def __init__(self, tree: TokenTree, estimators: Estimators) -> None:
        self.heard_ms = 0.0
        self.measured: list[tuple[str, float]] = []
        self._tree = tree
        self._estimators = estimators
        self._missed_ms: float | None = None

    @property
    def pass_ms(self) -> float:
        """Between two levels of drafts."""
        return self._estimators.median("pass") or self._estimators.median("draft") or _PASS_MS

    @property
    def turnaround_ms(self) -> float:
        """From a commit that the worker did not foresee to its first drafts after it."""
        measured = self._estimators.median("turnaround")
        if measured is not None:
            return measured
        return (self._estimators.median("rtt") or 0.0) + 1.5 * self.pass_ms

    def due_ms(self, node: Node) -> float:
        """When the children of a node are expected."""
        return node.arrival_ms + self.pass_ms

    def opened(self, now: float) -> None:
        """The worker is told of the sequence."""
        self._tree.root.arrival_ms = now + self.turnaround_ms - self.pass_ms
        self._missed_ms = None

    def committing(self, tokens: tuple[int, ...], now: float) -> float:
        """Tokens are about to be committed to the tree.

        Returns:
            ``arrival_ms`` of the root there will be.
        """
        node: Node | None = self._tree.root
        latest = now + self.turnaround_ms - self.pass_ms
        arrival = self._tree.root.arrival_ms
        for token in tokens:
            children = [] if node is None else node.children
            node = self._count(children, token)
            if node is not None:
                arrival = node.arrival_ms
            elif any(child.origin is Origin.REMOTE for child in children):
                arrival, self._missed_ms = latest, now
            else:
                arrival = self._pending(arrival, latest, now)
        return min(arrival, latest)

    def received(self, length: int, now: float) -> None:
        """Drafts have arrived and are in the tree; the worker had seen ``length`` committed tokens."""
        self.heard_ms = now
        root = self._tree.root
        if length > root.position and not root.children:
            root.arrival_ms = min(root.arrival_ms, now)
        if self._missed_ms is not None and any(child.origin is Origin.REMOTE for child in root.children):
            self.measured.append(("turnaround", now - self._missed_ms))
            self._missed_ms = None

    def _pending(self, arrival: float, latest: float, now: float) -> float:
        """The parent's children are not here yet; the token is probably among them, unless they are long overdue."""
        following = arrival + self.pass_ms
        return following if following > now - self.pass_ms else latest

    def _count(self, children: list[Node], token: int) -> Node | None:
        """Keep, for every draft at a position, whether it is the token committed there; return the one that is."""
        found: Node | None = None
        first_missed = False
        for child in children:
            hit = child.token == token
            if hit:
                found = child
            first_missed |= child.rank == 0 and not hit and child.origin is Origin.REMOTE
            self.measured.append((outcome_name(child.origin is Origin.REMOTE, child.rank, hit), -child.log_prob))
        if first_missed:
            self.measured.append(("covered", float(found is not None)))
        return found
