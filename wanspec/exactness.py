"""Is an output the target's own? The rule of "lossless" for engines in floating point, as a function of logits.

Greedy decoding equals target-only decoding token by token, except that float32 results depend a little on the shape of
the batch: where two tokens are nearly as likely, a verification of three tokens may choose another than a step of one.
Comparison is therefore teacher-forced: where a token differs, the reference's own logits decide whether the two tokens
were within ``MARGIN`` of each other; if so, the comparison goes on from the reference's prefix. In float64 no
difference is allowed: compare with ``==``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARGIN = 1e-3
"""Largest difference of two logits (or log-probabilities: it is the same) that floating point may turn round."""

TOKENS_PER_NEAR_TIE = 2_000
"""At most one difference in so many tokens, and one in any shorter run."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A token that differs from the reference.

    Attributes:
        position: its place in the output, from 0.
        expected, actual: the reference's token and the one served; -1 where an output had ended.
        margin: by how much the reference preferred its own, in nats.
    """

    position: int
    expected: int
    actual: int
    margin: float

    @property
    def excused(self) -> bool:
        """Whether it is a near-tie."""
        return self.margin < MARGIN


@dataclass(frozen=True, slots=True)
class Exactness:
    """Result of a comparison of ``tokens`` tokens."""

    tokens: int
    divergences: tuple[Divergence, ...] = ()

    @property
    def identical(self) -> bool:
        """Every token is the reference's."""
        return not self.divergences

    @property
    def holds(self) -> bool:
        """The rule holds: near-ties only, and few of them."""
        limit = max(1, self.tokens // TOKENS_PER_NEAR_TIE)
        return len(self.divergences) <= limit and all(each.excused for each in self.divergences)

    def __add__(self, other: Exactness) -> Exactness:
        return Exactness(self.tokens + other.tokens, self.divergences + other.divergences)


def first_difference(expected: Sequence[int], actual: Sequence[int]) -> int | None:
    """Position of the first token that differs or is missing; None where the outputs are equal."""
    for position, (left, right) in enumerate(zip(expected, actual, strict=False)):
        if left != right:
            return position
    return None if len(expected) == len(actual) else min(len(expected), len(actual))


def margin(logits: NDArray[np.floating[Any]], token: int) -> float:
    """By how much a reference prefers its best token to ``token``: from its logits or log-probabilities [vocab]."""
    return float(logits.max() - logits[token])


def compare(
    expected: Sequence[int],
    actual: Sequence[int],
    margin_at: Callable[[int, int], float],
    resume: Callable[[int], Sequence[int]],
) -> Exactness:
    """Compare an output with the reference's, teacher-forced.

    Args:
        expected: the reference's output.
        actual: the output to judge.
        margin_at: gives the reference's margin at a position (after ``expected[:position]``) over a token.
        resume: gives what follows ``expected[:position]`` by the means that gave ``actual``; called after a near-tie.

    Returns:
        All divergences up to the first that is not excused.
    """
    found: list[Divergence] = []
    start = 0
    while (place := first_difference(expected[start:], actual)) is not None:
        position = start + place
        mine = actual[place] if place < len(actual) else -1
        wanted = expected[position] if position < len(expected) else -1
        # An output that ends early or late differs by no token, so nothing can excuse it.
        gap = float("inf") if -1 in (mine, wanted) else margin_at(position, mine)
        found.append(Divergence(position, wanted, mine, gap))
        start = position + 1
        if not found[-1].excused or start >= len(expected):
            break
        actual = resume(start)
    return Exactness(len(expected), tuple(found))
