"""Chi-square against a known law, for tests of samplers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def chi_square_passes(counts: NDArray[np.int64], law: NDArray[np.float64], alpha_z: float = 4.0) -> bool:
    """Whether ``counts`` may come from ``law``; ``alpha_z`` is one-sided, in standard deviations (4: 1 in 30,000)."""
    expected = law * counts.sum()
    assert counts[expected == 0].sum() == 0, "a token that the law forbids was drawn"
    keep = expected > 0
    counts, expected = counts[keep], expected[keep]
    assert expected.min() >= 5, "too few draws for the test"
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the quantile.
    bound = freedom * (1 - 2 / (9 * freedom) + alpha_z * math.sqrt(2 / (9 * freedom))) ** 3
    return statistic < bound


def law_of(logits: NDArray[np.float64], temperature: float, top_k: int, top_p: float) -> NDArray[np.float64]:
    """The filtered softmax, the plain way: sort everything, walk down."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[: top_k or len(order)]
    weights = [math.exp((logits[token] - logits[order[0]]) / temperature) for token in order]
    total, reached, kept = math.fsum(weights), 0.0, 0
    for weight in weights:
        kept += 1
        reached += weight
        if reached >= top_p * total:
            break
    law = np.zeros(len(logits))
    law[order[:kept]] = weights[:kept]
    return law / law.sum()
