"""What many sequences at once get out of the scarce region: tokens per second, and what the GPU was busy with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wanspec.bench.results import Conditions, Usage
from wanspec.simulation.comparison import Estimate, median, ratios
from wanspec.simulation.setup import Measured

ENOUGH = 0.9
"""Share of what is possible that capacity should reach."""


@dataclass(frozen=True, slots=True)
class Load:
    """Capacity of the scarce region; None where engines do not share a GPU.

    Attributes:
        together_tokens_per_s: the sum of the answers' own rates, so that the end of a group, when only some still run,
            does not count; median over groups.
        together_ratio: against the baseline's in the same group of prompts.
        gpu_busy: share of the time that the GPU was in a pass.
        target_batch: sequences in a pass of the target, mean.
        gpu_ms_a_token: GPU time, all passes, by all tokens.
    """

    together_tokens_per_s: Estimate
    together_ratio: Estimate
    gpu_busy: float | None
    target_batch: float | None
    gpu_ms_a_token: float | None


def make_load(
    own: Sequence[Measured], others: Sequence[Measured], usages: Sequence[Usage], at_once: int, time_scale: float
) -> Load:
    """Sum up; ``own`` and ``others`` (the baseline's) in groups of as many as ran at once."""
    rates, reference = _rates(own, at_once), _rates(others, at_once)
    wall = sum(usage.wall_ms for usage in usages)
    uses = [use for usage in usages for use in usage.gpu.values()]
    busy = sum(ms for ms, _, _ in uses)
    target = [use for usage in usages for name, use in usage.gpu.items() if name != "draft"]
    passes = sum(count for _, count, _ in target)
    tokens = max(1, sum(usage.tokens for usage in usages))
    return Load(
        median(rates),
        ratios(rates, reference),
        busy / wall if uses else None,
        sum(members for _, _, members in target) / passes if passes else None,
        busy / tokens / time_scale if uses else None,
    )


def possible_ratio(conditions: Conditions) -> float | None:
    """Tokens/s against the baseline if no local draft pass were left: (T + k d) / T. None without a pace."""
    target, draft, _ = conditions.pace_ms
    return (target + conditions.k * draft) / target if target else None


def _rates(answers: Sequence[Measured], at_once: int) -> list[float]:
    """Tokens per second of each group."""
    groups = [answers[start : start + at_once] for start in range(0, len(answers), at_once)]
    return [sum(1e3 * one.tokens / max(one.latency_ms, 1e-3) for one in group) for group in groups]
