"""How sure a draft is, and how often it is right: tables that token sources draw positions from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from wanspec.core.estimators import TAIL_ENTROPY_NATS

Floats = NDArray[np.float64]

ROWS = 1 << 16
"""Equally likely kinds of position in a table: the law's quantiles, so that it is met without sampling error."""
RANKS = 4
REST = (0.5, 0.2, 0.1)
"""What ranks 2, 3 and 4 have of the probability that the first leaves; the other 0.2 is spread over the vocabulary."""


@dataclass(frozen=True, slots=True)
class Beta:
    """A Beta distribution, with its share in a mixture."""

    share: float
    a: float
    b: float


REFERENCE = (Beta(0.6, 30.0, 1.0), Beta(0.4, 2.2, 2.2))
"""The reference source: sure at 60% of positions, undecided at the others; right at 78%."""


@dataclass(frozen=True, slots=True)
class Table:
    """Kinds of position, each as likely as any other.

    Attributes:
        truth: [ROWS, RANKS] probability that the target's token is the draft's child of this rank or a better one.
        said: float32 [ROWS, RANKS + 1] what the draft says of its children, natural logarithms, and of the whole
            distribution: its entropy, nats.
        target_log_probs: [ROWS] log-probability of the target's own choice under the target.
    """

    truth: Floats
    said: NDArray[np.float32]
    target_log_probs: Floats

    @property
    def log_probs(self) -> NDArray[np.float32]:
        """Of the draft's children, [ROWS, RANKS]."""
        return self.said[:, :RANKS]

    @property
    def match_rate(self) -> float:
        """Share of positions at which the draft's first child is the target's token."""
        return float(self.truth[:, 0].mean())


@lru_cache(maxsize=64)
def make_table(mixture: tuple[Beta, ...] = REFERENCE, sharpness: float = 1.0) -> Table:
    """Make a table in which the draft's first child is right with the probability that the mixture gives.

    Args:
        mixture: of the probability that the first child is right; shares sum to 1.
        sharpness: the draft's stated odds are the true odds to this power: above 1 it is over-confident, below 1
            under-confident.
    """
    right = _quantiles(mixture)
    stated = _sharpened(right, sharpness)
    return Table(
        np.cumsum(_ranks(right), axis=1),
        np.concatenate((np.log(_ranks(stated)), _entropy(stated)[:, None]), axis=1).astype(np.float32),
        np.log(right),
    )


def mixture_of(match_rate: float) -> tuple[Beta, ...]:
    """The reference mixture with other shares or, for rates it cannot reach, a worse undecided part."""
    sure, undecided = 30.0 / 31.0, 0.5
    if match_rate >= undecided:
        share = min(1.0, (match_rate - undecided) / (sure - undecided))
        return (Beta(share, 30.0, 1.0), Beta(1.0 - share, 2.2, 2.2))
    return (Beta(1.0, 2.2, 2.2 * (1.0 - match_rate) / match_rate),)


def _quantiles(mixture: tuple[Beta, ...]) -> Floats:
    counts = [round(ROWS * part.share) for part in mixture]
    counts[-1] = ROWS - sum(counts[:-1])
    parts = [_beta_quantiles(part, count) for part, count in zip(mixture, counts, strict=True) if count]
    return np.clip(np.concatenate(parts), 1e-4, 1.0 - 1e-4)


def _beta_quantiles(part: Beta, count: int) -> Floats:
    edges = np.linspace(0.0, 1.0, 20_001)
    middles = (edges[1:] + edges[:-1]) / 2.0
    scale = lgamma(part.a + part.b) - lgamma(part.a) - lgamma(part.b)
    density = np.exp(scale + (part.a - 1.0) * np.log(middles) + (part.b - 1.0) * np.log1p(-middles))
    below = np.concatenate(([0.0], np.cumsum(density)))
    values: Floats = np.interp((np.arange(count) + 0.5) / count, below / below[-1], edges)
    return values


def _sharpened(p: Floats, sharpness: float) -> Floats:
    if sharpness == 1.0:
        return p
    odds = (p / (1.0 - p)) ** sharpness
    stated: Floats = np.clip(odds / (1.0 + odds), 1e-4, 1.0 - 1e-4)
    return stated


def _ranks(first: Floats) -> Floats:
    rest = 1.0 - first
    return np.stack([first, *(share * rest for share in REST)], axis=1)


def _entropy(first: Floats) -> Floats:
    rest = 1.0 - first
    entropy: Floats = -first * np.log(first) - rest * np.log(rest) + rest * TAIL_ENTROPY_NATS
    return entropy
