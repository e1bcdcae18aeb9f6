"""How often drafts are accepted, by what their proposer says: a draft's probability is not an acceptance rate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import exp, log

RANKS = 4
"""Children of rank 3 and beyond are counted together."""
_EDGES = tuple(log(p) for p in (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96, 0.99))
BINS = len(_EDGES) + 1
_CELLS = RANKS * BINS
_PRIOR = 12.0
"""So many observations the stated probability itself is worth."""
_MOST = 4_096.0
"""Observations of a cell after which the older half is forgotten, as models and texts change."""
_LEAST, _CERTAIN = 1e-4, 1.0 - 1e-4


class Calibration:
    """Acceptance by bins of stated probability and by rank.

    In each cell the stated probabilities are moved by the mean error seen there, shrunk towards none.
    """

    __slots__ = ("_counts", "_shifts")

    def __init__(self, state: Sequence[float] = ()) -> None:
        """Args: state: what :meth:`state` gave; anything of another length is ignored."""
        values = list(state) if len(state) == 3 * _CELLS else [0.0] * (3 * _CELLS)
        self._counts = values
        self._shifts = [self._shift(cell) for cell in range(_CELLS)]

    def chance(self, log_prob: float, rank: int) -> float:
        """Estimate how probable it is that the target chooses a draft, given that it chose the draft's parent.

        Args:
            log_prob: what the proposer says, natural logarithm.
            rank: place among the proposer's children there, 0 for the best.
        """
        stated = exp(log_prob) if log_prob < 0.0 else 1.0
        cell = (rank if rank < RANKS else RANKS - 1) * BINS + bisect_right(_EDGES, log_prob)
        moved = stated + self._shifts[cell]
        if moved > _CERTAIN:
            return _CERTAIN
        least = 0.25 * stated
        return moved if moved > least else max(least, _LEAST)

    def observe(self, log_prob: float, rank: int, accepted: bool) -> None:
        """Count one draft at whose position the target has chosen."""
        cell = (rank if rank < RANKS else RANKS - 1) * BINS + bisect_right(_EDGES, log_prob)
        counts, at = self._counts, 3 * cell
        counts[at] += 1.0
        counts[at + 1] += accepted
        counts[at + 2] += exp(log_prob) if log_prob < 0.0 else 1.0
        if counts[at] > _MOST:
            counts[at : at + 3] = [0.5 * count for count in counts[at : at + 3]]
        self._shifts[cell] = self._shift(cell)

    def kinds(self, default: float) -> tuple[tuple[float, float], ...]:
        """Kinds of position by how sure a proposer is of its first child: (share of positions, acceptance).

        Before anything is seen there is one kind, with the default acceptance.
        """
        cells = [self._counts[at : at + 3] for at in range(0, 3 * BINS, 3)]
        total = sum(seen for seen, _, _ in cells)
        if total < _PRIOR:
            return ((1.0, default),)
        return tuple(
            (seen / total, min(_CERTAIN, max(_LEAST, (accepted + _PRIOR * stated / seen) / (seen + _PRIOR))))
            for seen, accepted, stated in cells
            if seen
        )

    def mean(self, default: float) -> float:
        """Acceptance of first children, over all positions; ``default`` before anything is seen."""
        kinds = self.kinds(default)
        return sum(share * chance for share, chance in kinds)

    def state(self) -> list[float]:
        """Return all counts; ``Calibration(state)`` restores them."""
        return list(self._counts)

    def _shift(self, cell: int) -> float:
        seen, accepted, stated = self._counts[3 * cell : 3 * cell + 3]
        return (accepted - stated) / (seen + _PRIOR)
