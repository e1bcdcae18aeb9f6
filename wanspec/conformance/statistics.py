"""Chi-square without a statistics package."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST_EXPECTED = 5.0


def chi_square(observed: Sequence[int], expected: Sequence[float]) -> tuple[float, int]:
    """The statistic and its degrees of freedom. Cells that expect less than 5 are put together.

    Raises:
        ValueError: fewer than two cells are left.
    """
    cells: list[tuple[float, float]] = []
    rest = (0.0, 0.0)
    for seen, mean in zip(observed, expected, strict=True):
        if mean < LEAST_EXPECTED:
            rest = (rest[0] + seen, rest[1] + mean)
        else:
            cells.append((float(seen), mean))
    if rest[1] > 0 and (rest[1] >= LEAST_EXPECTED or not cells):
        cells.append(rest)
    elif cells:
        least = min(range(len(cells)), key=lambda index: cells[index][1])
        cells[least] = (cells[least][0] + rest[0], cells[least][1] + rest[1])
    if len(cells) < 2:
        raise ValueError("chi-square needs at least two cells: take more samples or a flatter distribution")
    return sum((seen - mean) ** 2 / mean for seen, mean in cells), len(cells) - 1


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Probability of a statistic as large, or larger: the regularised upper incomplete gamma function, by recursion.

    Q(a + 1, x) = Q(a, x) + x**a exp(-x) / gamma(a + 1), from Q(1/2, x) = erfc(sqrt(x)) or Q(1, x) = exp(-x).
    """
    if freedom < 1:
        raise ValueError(f"freedom is {freedom}: must be at least 1")
    x = statistic / 2
    if x <= 0:
        return 1.0
    a, tail = (0.5, math.erfc(math.sqrt(x))) if freedom % 2 else (1.0, math.exp(-x))
    while a < freedom / 2:
        tail += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return min(tail, 1.0)
