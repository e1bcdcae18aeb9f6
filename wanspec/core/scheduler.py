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


def candidates(sequence: Draftable, most: int, max_nodes: int, context: int) -> list[Node]:
    """Take at most ``most`` leaves that may be expanded from a sequence's frontier, most probable first.

    A leaf is left alone where it lies at the sequence's depth limit, the target is too unlikely to get there, its
    children would lie beyond the context, or the tree has no room for them.
    """
    tree, drafting = sequence.tree, sequence.drafting
    room = (max_nodes - tree.size) // max(1, drafting.branching)
    if room < 1:
        return [] if tree.root.expanded else [tree.root]
    deepest = min(tree.root.position + drafting.max_depth, context - 1)
    least = tree.root.score + (log(drafting.floor) if drafting.floor > 0 else -inf)
    return sequence.frontier.take(min(drafting.width, room, most), deepest, least)


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


def best(offers: Sequence[Sequence[float]], capacity: int) -> list[int]:
    """Split a pass among sequences: one leaf each in turn, so that none starves, then the most probable of all.

    Args:
        offers: for each sequence, the probabilities that the target reaches its leaves, falling.
        capacity: most leaves in the pass.

    Returns:
        Leaves granted to each sequence: its first ones.
    """
    granted = [0] * len(offers)
    served = [number for number, offer in enumerate(offers) if offer][:capacity]
    for number in served:
        granted[number] = 1
    rest = [(-chance, number) for number, offer in enumerate(offers) for chance in offer[1:]]
    for _, number in sorted(rest)[: max(0, capacity - len(served))]:
        granted[number] += 1
    return granted
