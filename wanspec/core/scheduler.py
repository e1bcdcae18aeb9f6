"""Which leaves a worker's next pass expands, over all its sequences: best first (PAPER Algorithm 2, steps 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import exp, inf, log
from typing import Protocol

from wanspec.core.costs import CostModel
from wanspec.core.messages import Drafting
from wanspec.core.tree import LIVE, Node, TokenTree

_SPARE = 256
"""A frontier is cleaned of dead leaves when it is this much longer than its tree has nodes."""


class Frontier:
    """The leaves of one tree, most probable first. Those that have died or been expanded are dropped when met.

    Re-rooting the tree does not change the order of two leaves: both lose the same factor.
    """

    __slots__ = ("_beyond", "_heap", "_order")

    def __init__(self, root: Node) -> None:
        self._heap: list[tuple[float, int, Node]] = [(-root.score, 0, root)]
        self._beyond: list[tuple[float, int, Node]] = []
        self._order = 0

    def add(self, leaf: Node) -> None:
        """Add a leaf, by its ``score``."""
        self._order += 1
        heappush(self._heap, (-leaf.score, self._order, leaf))

    def moved(self, size: int) -> None:
        """The tree, now of ``size`` nodes, was re-rooted at one of them: leaves lie less deep."""
        for entry in self._beyond:
            heappush(self._heap, entry)
        self._beyond.clear()
        if len(self._heap) > 2 * size + _SPARE:
            self._heap = [entry for entry in self._heap if entry[2].state is LIVE]
            heapify(self._heap)

    def take(self, count: int, deepest: int, least: float) -> list[Node]:
        """Remove and return the best ``count`` leaves above position ``deepest`` whose score is at least ``least``."""
        heap, taken = self._heap, list[Node]()
        while heap and len(taken) < count:
            leaf = heap[0][2]
            if leaf.state is not LIVE or leaf.expanded:
                heappop(heap)
            elif leaf.score < least:
                break
            elif leaf.position >= deepest:
                self._beyond.append(heappop(heap))
            else:
                heappop(heap)
                taken.append(leaf)
        return taken


class Draftable(Protocol):
    """What the scheduler reads of a worker's sequence."""

    tree: TokenTree
    drafting: Drafting
    frontier: Frontier


class Offer:
    """What a sequence offers to a pass: the leaves that may be expanded, most probable first, taken as they are wanted.

    A leaf is left alone where it lies at the sequence's depth limit, the target is too unlikely to get there, its
    children would lie beyond the context, or the tree has no room for them.
    """

    __slots__ = ("_deepest", "_frontier", "_least", "_left", "_root")

    def __init__(self, sequence: Draftable, max_nodes: int, context: int) -> None:
        tree, drafting = sequence.tree, sequence.drafting
        root, floor, width = tree.root, drafting.floor, drafting.width
        room = (max_nodes - tree.size) // (drafting.branching or 1)
        self._frontier = sequence.frontier
        self._deepest = min(root.position + drafting.max_depth, context - 1)
        self._least = root.score + (log(floor) if floor > 0 else -inf)
        self._left = width if width < room else room
        # A tree without room begins anew at its root.
        self._root = root if room < 1 and not root.expanded else None

    def take(self, count: int) -> list[Node]:
        """Take at most so many, which leave the frontier."""
        if self._root is not None:
            root, self._root = self._root, None
            return [root]
        taken = self._frontier.take(min(count, self._left), self._deepest, self._least)
        self._left -= len(taken)
        return taken

    def give_back(self, leaf: Node) -> None:
        """Return a leaf that no pass has room for."""
        self._frontier.add(leaf)


def worthwhile(probabilities: Sequence[float], costs: CostModel, context: float) -> int:
    """Count the leaves after which another one costs a pass more than it gives: those that make tokens per ms most.

    Args:
        probabilities: of each leaf, that the target gets there: what its expansion gives, in tokens.
        costs: of a pass.
        context: cached tokens that a leaf attends to, on average.

    Returns:
        At least 1.
    """
    if costs.flat:
        return max(1, len(probabilities))
    best, most, tokens = 1, 0.0, 0.0
    cost_ms = costs.step.rising(len(probabilities), context)
    for count, probability in enumerate(sorted(probabilities, reverse=True), 1):
        tokens += probability
        rate = tokens / max(cost_ms[count - 1], 1e-6)
        if rate >= most:
            best, most = count, rate
    return best


def reach_probability(leaf: Node, root: Node) -> float:
    """The probability that the target gets from ``root`` to ``leaf``."""
    return exp(min(0.0, leaf.score - root.score))


def fill(offers: Sequence[Offer], roots: Sequence[Node], most: int) -> tuple[list[list[Node]], list[tuple[float, int]]]:
    """Fill a pass from sequences that have had a leaf each: with the most probable of all.

    Args:
        offers: of the sequences.
        roots: of their trees.
        most: leaves.

    Returns:
        For each sequence its leaves; and (probability, sequence) of all of them, falling.
    """
    taken: list[list[Node]] = [[] for _ in offers]
    order: list[tuple[float, int]] = []
    heap: list[tuple[float, int, Node]] = []

    def refill(number: int) -> None:
        for leaf in offers[number].take(1):
            heappush(heap, (-reach_probability(leaf, roots[number]), number, leaf))

    for number in range(len(offers)):
        refill(number)
    while heap and len(order) < most:
        chance, number, leaf = heappop(heap)
        taken[number].append(leaf)
        order.append((-chance, number))
        refill(number)
    for _, number, leaf in heap:
        offers[number].give_back(leaf)
    return taken, order
