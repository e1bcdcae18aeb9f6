"""What a policy gains against a baseline on the same requests: medians of paired values, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def compare(policy: Sequence[Measured], baseline: Sequence[Measured]) -> Comparison:
    """Compare measurements of the same requests, in the same order."""
    if len(policy) != len(baseline) or not policy:
        raise ValueError(f"{len(policy)} and {len(baseline)} requests cannot be paired")
    latency = _array([p.latency_ms / b.latency_ms for p, b in zip(policy, baseline, strict=True)])
    scarce = _array([p.scarce_ms / b.scarce_ms for p, b in zip(policy, baseline, strict=True)])
    saved = _array(
        [1.0 - p.draft_passes / b.draft_passes for p, b in zip(policy, baseline, strict=True) if b.draft_passes]
    )
    tokens = sum(p.tokens for p in policy)
    return Comparison(
        _median(latency),
        _median(saved) if len(saved) else Estimate(0.0, 0.0, 0.0),
        _median(scarce),
        _mean(latency),
        float(np.median([p.latency_ms for p in policy])),
        tokens / max(1, sum(p.rounds for p in policy)),
        sum(p.remote_passes for p in policy) / max(1, tokens),
    )


def _array(values: list[float]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def _median(values: NDArray[np.float64]) -> Estimate:
    return _estimate(float(np.median(values)), np.median(_resampled(values), axis=1))


def _mean(values: NDArray[np.float64]) -> Estimate:
    return _estimate(float(np.mean(values)), np.mean(_resampled(values), axis=1))


def _resampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    chosen = np.random.default_rng(_SEED).integers(0, len(values), (RESAMPLES, len(values)))
    resampled: NDArray[np.float64] = values[chosen]
    return resampled


def _estimate(value: float, resamples: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(resamples, (0.05, 0.95))
    return Estimate(value, float(low), float(high))
