"""Which leaves a worker's next pass expands, over all its sequences (PAPER Algorithm 2, steps 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from math import exp, inf, log
from typing import Protocol

from wanspec.core.costs import UNMEASURED, CostModel
from wanspec.core.messages import Drafting
from wanspec.core.tree import Node, TokenTree


class Draftable(Protocol):
    """What the scheduler reads of a worker's sequence."""

    tree: TokenTree
    drafting: Drafting


def candidates(sequence: Draftable, max_nodes: int, context: int) -> list[Node]:
    """Return the ``width`` most probable leaves that may be expanded, most probable first.

    A leaf is left alone where it lies at the sequence's depth limit, the target is too unlikely to get there, its
    children would lie beyond the context, or the tree has no room for them.
    """
    tree, drafting = sequence.tree, sequence.drafting
    room = (max_nodes - tree.size) // max(1, drafting.branching)
    if room < 1:
        return [] if tree.root.expanded else [tree.root]
    deepest = min(tree.root.position + drafting.max_depth, context - 1)
    least = tree.root.path_log_prob + (log(drafting.floor) if drafting.floor > 0 else -inf)
    return nlargest(
        min(drafting.width, room),
        (leaf for leaf in tree.leaves() if leaf.position < deepest and leaf.path_log_prob >= least),
        key=lambda leaf: leaf.path_log_prob,
    )


def worthwhile(probabilities: Sequence[float], costs: CostModel, context: float) -> int:
    """Count the leaves after which another one costs a pass more than it gives: those that make tokens per ms most.

    Args:
        probabilities: of each leaf, that the target gets there: what its expansion gives, in tokens.
        costs: of a pass; all leaves are worth it where nothing was measured.
        context: cached tokens that a leaf attends to, on average.

    Returns:
        At least 1.
    """
    if costs is UNMEASURED:
        return max(1, len(probabilities))
    best, most, tokens = 1, 0.0, 0.0
    for count, probability in enumerate(sorted(probabilities, reverse=True), 1):
        tokens += probability
        rate = tokens / max(costs.pass_ms(count, count, context), 1e-6)
        if rate >= most:
            best, most = count, rate
    return best


def reach_probability(leaf: Node, root: Node) -> float:
    """The probability that the target gets from ``root`` to ``leaf``, by the draft's account."""
    return exp(min(0.0, leaf.path_log_prob - root.path_log_prob))


def share(wanted: Sequence[int], capacity: int) -> list[int]:
    """Split a pass among sequences: one leaf each in turn until the pass is full, so that none starves.

    Args:
        wanted: leaves each sequence could use.
        capacity: most leaves in the pass.

    Returns:
        Leaves granted to each sequence.
    """
    granted = [0] * len(wanted)
    left = capacity
    while left > 0:
        hungry = [i for i, want in enumerate(wanted) if granted[i] < want]
        if not hungry:
            break
        for index in hungry[:left]:
            granted[index] += 1
        left -= min(left, len(hungry))
    return granted
