"""When a worker's drafts of a sequence are due, as far as the controller can know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from wanspec.core.estimators import Estimators, outcome_name
from wanspec.core.tree import Node, Origin, TokenTree

Sighting: TypeAlias = tuple[int, int, float]
"""A child of the worker's: (token, rank, log-probability)."""

_PASS_MS = 10.0


class Arrivals:
    """One sequence's forecast. All times in ms.

    The *front* is the last token of the committed text, or the root of the tree, of which it is known when the worker's
    copy arrived: because it did, or because the worker is known not to have foreseen it, so that its children come a
    turnaround after its commit. From the front on, the worker is expected to advance a position a pass.

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
        self._committed_ms: dict[int, float] = {}
        self._opened_at = self._front = tree.root.position
        self._front_ms = 0.0
        self._lost: int | None = None
        self._second: dict[int, float] = {}

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

    def committed_ms(self, length: int) -> float | None:
        """When the worker was told of the first ``length`` tokens; None if it was not, in its present epoch."""
        return self._committed_ms.get(length - 1)

    def opened(self, now: float) -> None:
        """The worker is told of the sequence."""
        root = self._tree.root
        self._committed_ms = {root.position: now}
        self._opened_at, self._lost, self._second = root.position, None, {}
        self._missed(root.position)
        root.arrival_ms = self._front_ms

    def committing(self, tokens: tuple[int, ...], now: float) -> float:
        """Tokens are about to be committed to the tree.

        Returns:
            ``arrival_ms`` of the root there will be.
        """
        position = self._tree.root.position
        node: Node | None = self._tree.root
        for token in tokens:
            position += 1
            self._committed_ms[position] = now
            children = [] if node is None else node.children
            remote = [(child.token, child.rank, child.log_prob) for child in children if child.origin is Origin.REMOTE]
            local = [(child.token, child.rank, child.log_prob) for child in children if child.origin is Origin.LOCAL]
            self._count(local, token, remote=False)
            known = self._count(remote, token, remote=True)
            node = next((child for child in children if child.token == token), None)
            if node is not None and node.number >= 0:
                self._arrived(position, node.arrival_ms, first=node.rank == 0)
                following = _remote_child(node)
                if following is not None:
                    self._followed(position, following.arrival_ms)
            elif remote and not known:
                self._missed(position)
        return self._expected_ms(position, now)

    def received(self, length: int, passed: Mapping[int, Sequence[Sighting]], now: float) -> None:
        """Drafts have arrived and are in the tree.

        Args:
            length: committed tokens that the worker had seen.
            passed: children of committed positions, which came too late to be verified, by the parent's position.
            now: ms.
        """
        self.heard_ms = now
        root, tokens = self._tree.root, self._tree.tokens
        if self._lost == length - 1:
            self.measured.append(("turnaround", now - self._committed_ms[self._lost]))
            self._lost = None
        for parent, children in passed.items():
            self._followed(parent, now)
            if self._count(children, tokens[parent + 1], remote=True):
                self._arrived(parent + 1, now, first=children[0][0] == tokens[parent + 1])
            else:
                self._missed(parent + 1)
        if _remote_child(root) is not None:
            self._followed(root.position, now)
        elif length > root.position:
            self._arrived(root.position, min(root.arrival_ms, now), first=True)
        if passed and self._front <= root.position:
            root.arrival_ms = self._expected_ms(root.position, now)

    def _expected_ms(self, position: int, now: float) -> float:
        """``arrival_ms`` of a root at a position; that of a loss there if its children are overdue."""
        expected = self._front_ms + (position - self._front) * self.pass_ms
        lost = self._committed_ms.get(position, now) + self.turnaround_ms - self.pass_ms
        return expected if now - self.pass_ms < expected < lost else lost

    def _arrived(self, position: int, at_ms: float, *, first: bool) -> None:
        if not first:
            self._second[position] = at_ms
        if position >= self._front:
            self._front, self._front_ms = position, at_ms

    def _missed(self, position: int) -> None:
        """The worker learns of this position by its commit."""
        if position >= self._front and position in self._committed_ms:
            self._front = position
            self._front_ms = self._committed_ms[position] + self.turnaround_ms - self.pass_ms
            self._lost = position if position > self._opened_at else None

    def _followed(self, position: int, at_ms: float) -> None:
        """The worker's children of a position came. Where its token was not its parent's first child, keep how much of
        a turnaround was saved by having it: all if they came a pass after it, nothing if no sooner than after a miss.
        """
        arrived = self._second.pop(position, None)
        if arrived is not None:
            due, lost = arrived + self.pass_ms, self._committed_ms[position] + self.turnaround_ms
            saved = (lost - at_ms) / (lost - due) if lost > due else 1.0
            self.measured.append(("covered", min(1.0, max(0.0, saved))))

    def _count(self, children: Iterable[Sighting], token: int, *, remote: bool) -> bool:
        """Keep, for every draft at a position, whether it is the token committed there; return whether one is."""
        found = first_missed = False
        for child, rank, log_prob in children:
            hit = child == token
            found |= hit
            first_missed |= rank == 0 and not hit
            self.measured.append((outcome_name(remote, rank, hit), -log_prob))
        if remote and first_missed and not found:
            self.measured.append(("covered", 0.0))
        return found


def _remote_child(node: Node) -> Node | None:
    """A child of which the worker's own copy has arrived."""
    return next((child for child in node.children if child.number >= 0), None)
