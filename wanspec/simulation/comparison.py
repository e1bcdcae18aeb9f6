"""What a policy gains against a baseline on the same requests: medians of paired values, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.simulation.setup import Measured

RESAMPLES = 1_000
_SEED = 20_260_221


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 90% bootstrap interval."""

    value: float
    low: float
    high: float


def estimates_as_dict(values: Any) -> dict[str, Any]:
    """Fields of a dataclass as plain values, for JSON: each estimate with its interval beside it."""
    row: dict[str, Any] = {}
    for name, value in asdict(values).items():
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
            row[name] = round(value["value"], 4)
            row[f"{name}_interval"] = [round(value["low"], 4), round(value["high"], 4)]
        else:
            row[name] = round(value, 4) if isinstance(value, float) else value
    return row


@dataclass(frozen=True, slots=True)
class Comparison:
    """A policy against a baseline. All but the last three are medians over requests of paired values.

    Attributes:
        latency_ratio: time from submission to the last token.
        draft_passes_saved: share of the baseline's draft passes in the scarce region.
        scarce_gpu_ratio: target and local draft time per committed token.
        latency_ratio_mean: as ``latency_ratio``, but the mean; half of what lies outside its interval is above it.
        latency_ms: median, unpaired.
        tokens_a_round, remote_passes_a_token: means.
    """

    latency_ratio: Estimate
    draft_passes_saved: Estimate
    scarce_gpu_ratio: Estimate
    latency_ratio_mean: Estimate
    latency_ms: float
    tokens_a_round: float
    remote_passes_a_token: float

    @property
    def draft_passes_ratio(self) -> Estimate:
        """Draft passes in the scarce region as a share of the baseline's."""
        saved = self.draft_passes_saved
        return Estimate(1.0 - saved.value, 1.0 - saved.high, 1.0 - saved.low)


def compare(policy: Sequence[Measured], baseline: Sequence[Measured]) -> Comparison:
    """Compare measurements of the same requests, in the same order."""
    if len(policy) != len(baseline) or not policy:
        raise ValueError(f"{len(policy)} and {len(baseline)} requests cannot be paired")
    latency = [p.latency_ms / b.latency_ms for p, b in zip(policy, baseline, strict=True)]
    saved = [1.0 - p.draft_passes / b.draft_passes for p, b in zip(policy, baseline, strict=True) if b.draft_passes]
    tokens = sum(p.tokens for p in policy)
    return Comparison(
        median(latency),
        median(saved),
        ratios([p.scarce_ms for p in policy], [b.scarce_ms for b in baseline]),
        mean(latency),
        float(np.median([p.latency_ms for p in policy])),
        tokens / max(1, sum(p.rounds for p in policy)),
        sum(p.remote_passes for p in policy) / max(1, tokens),
    )


def ratios(policy: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Median of paired ratios."""
    return median([p / b for p, b in zip(policy, baseline, strict=True) if b])


def median(values: Sequence[float]) -> Estimate:
    """Median with its interval; 0 of nothing."""
    return quantile(values, 0.5)


def quantile(values: Sequence[float], q: float) -> Estimate:
    """Quantile with its interval; 0 of nothing."""
    return _estimate(values, partial(np.quantile, q=q))


def mean(values: Sequence[float]) -> Estimate:
    """Mean with its interval; 0 of nothing."""
    return _estimate(values, np.mean)


def _estimate(values: Sequence[float], statistic: Callable[..., Any]) -> Estimate:
    if not values:
        return Estimate(0.0, 0.0, 0.0)
    array: NDArray[np.float64] = np.array(values, dtype=np.float64)
    chosen = np.random.default_rng(_SEED).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.quantile(statistic(array[chosen], axis=1), (0.05, 0.95))
    return Estimate(float(statistic(array)), float(low), float(high))
