"""What a benchmark's samples say: one row for each policy, round trip and concurrency. Times as without the scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wanspec.bench.load import Load, make_load
from wanspec.bench.meter import OURS
from wanspec.bench.results import Results, Sample, Usage
from wanspec.simulation.comparison import Comparison, Estimate, compare, estimates_as_dict, median, quantile, ratios
from wanspec.simulation.setup import Measured, measured

Key = tuple[str, float, int]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast. Medians over requests, unless a quantile is named; ratios are medians of paired values.

    Attributes:
        ttft_ms: time to first token.
        tpot_ms: time per output token after the first.
        latency_p50_ms, latency_p95_ms, latency_p99_ms: quantiles of the time from submission to the last token.
        tokens_per_s: of all requests at once, at the client; median over groups of them.
    """

    ttft_ms: Estimate
    ttft_ratio: Estimate
    tpot_ms: Estimate
    tpot_ratio: Estimate
    latency_p50_ms: Estimate
    latency_p95_ms: Estimate
    latency_p99_ms: Estimate
    tokens_per_s: Estimate


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took, over all requests of a row; None where it is not known.

    Attributes:
        scarce_gpu_ms_a_token: target and local draft engine time; median over requests.
        remote_passes_wasted: passes none of whose tokens became text.
        acceptance: share of verified drafts that were accepted, by who proposed them.
        acceptance_by_position: the same at each place in the verified chain, None where none was.
        waits: by cause, how often the controller waited or drafted locally.
        bytes_up_a_token, bytes_down_a_token: of messages, without the framing of gRPC and TCP.
        wan_bytes_up_a_token, wan_bytes_down_a_token: at the relay, framing and pings included.
        own_cpu_ms_a_token: CPU time of processes without a model, not scaled: both servers and the controller.
        cpu_ms_a_token: the same of each process.
        busy, own_busy: share of the machine's cores in use, and the deployment's part of it.
    """

    local_draft_passes: int
    scarce_gpu_ms_a_token: Estimate
    remote_passes: int
    remote_passes_wasted: int
    acceptance: dict[str, float]
    acceptance_by_position: dict[str, list[float | None]]
    waits: dict[str, int]
    waited_ms_a_request: float
    bytes_up_a_token: float
    bytes_down_a_token: float
    wan_bytes_up_a_token: float | None
    wan_bytes_down_a_token: float | None
    own_cpu_ms_a_token: float | None
    own_cpu_ms_a_round: float | None
    cpu_ms_a_token: dict[str, float]
    busy: float
    own_busy: float


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one round trip and concurrency.

    Attributes:
        requests, tokens: how many.
        found: against the baseline, as the simulator has it.
        exact: every output is the target's own.
        divergences: tokens that differ: near-ties of float32 where ``exact``.
    """

    policy: str
    rtt_ms: float
    concurrency: int
    requests: int
    tokens: int
    exact: bool
    divergences: int
    found: Comparison
    speed: Speed
    cost: Cost
    load: Load

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: each estimate with its interval beside it."""
        names = ("policy", "rtt_ms", "concurrency", "requests", "tokens", "exact", "divergences")
        row: dict[str, Any] = {name: getattr(self, name) for name in names}
        for part in (self.found, self.speed, self.cost, self.load):
            row |= estimates_as_dict(part)
        return row


def make_rows(results: Results) -> list[Row]:
    """Make all rows, the baseline's first at each round trip and concurrency.

    Raises:
        ValueError: the baseline has not answered the same requests.
    """
    conditions = results.conditions
    samples: dict[Key, list[Sample]] = {}
    for sample in results.samples:
        scaled = replace(sample, summary=unscaled(sample.summary, conditions.time_scale))
        samples.setdefault((sample.policy, sample.rtt_ms, sample.concurrency), []).append(scaled)
    usages: dict[Key, list[Usage]] = {}
    for usage in results.usages:
        usages.setdefault((usage.policy, usage.rtt_ms, usage.concurrency), []).append(usage)
    rows = []
    for key in samples:
        baseline = samples[conditions.baseline, key[1], key[2]]
        rows.append(_row(key, samples[key], baseline, usages[key], conditions.time_scale))
    return sorted(rows, key=lambda row: (row.rtt_ms, row.concurrency, row.policy != conditions.baseline))


def unscaled(summary: Mapping[str, Any], time_scale: float) -> dict[str, Any]:
    """A summary with its times as they would be without the scale."""
    return {
        name: value / time_scale if name.endswith("_ms") and value is not None else value
        for name, value in summary.items()
    }


def as_measured(sample: Sample) -> Measured:
    """What the simulator's statistics take. The scarce GPU's time is that of both engines, as they report it."""
    summary = sample.summary | {"ttft_ms": sample.summary["ttft_ms"] or 0.0}  # none where nothing was answered
    return measured(summary, summary["target_ms"] + summary["local_draft_ms"])


def acceptance_counts(samples: Sequence[Sample]) -> dict[str, list[tuple[int, int]]]:
    """By who proposed them, for each place in the verified chain: drafts verified, and accepted."""
    verified: Counter[tuple[str, int]] = Counter()
    accepted: Counter[tuple[str, int]] = Counter()
    for sample in samples:
        for origin, counts in sample.summary["positions"].items():
            for place, (some, right) in enumerate(counts):
                verified[origin, place] += some
                accepted[origin, place] += right
    origins = sorted({origin for origin, _ in verified})
    depth = {origin: 1 + max(place for name, place in verified if name == origin) for origin in origins}
    return {
        origin: [(verified[origin, place], accepted[origin, place]) for place in range(depth[origin])]
        for origin in origins
    }


def over_time(usages: Sequence[Usage], field: str) -> float:
    """Mean of a field, each group of requests weighted by how long it took."""
    return float(sum(getattr(u, field) * u.wall_ms for u in usages) / sum(u.wall_ms for u in usages))


def _row(
    key: Key, samples: Sequence[Sample], baseline: Sequence[Sample], usages: Sequence[Usage], time_scale: float
) -> Row:
    own, others = [as_measured(sample) for sample in samples], [as_measured(sample) for sample in baseline]
    if [sample.prompt for sample in samples] != [sample.prompt for sample in baseline]:
        raise ValueError(f"{key[0]} and the baseline have answered different prompts")
    return Row(
        *key,
        requests=len(samples),
        tokens=sum(one.tokens for one in own),
        exact=all(sample.exact for sample in samples),
        divergences=sum(sample.divergences for sample in samples),
        found=compare(own, others),
        speed=_speed(own, others, usages, time_scale),
        cost=_cost(samples, own, usages),
        load=make_load(own, others, usages, key[2], time_scale),
    )


def _speed(own: Sequence[Measured], others: Sequence[Measured], usages: Sequence[Usage], time_scale: float) -> Speed:
    latencies = [one.latency_ms for one in own]
    return Speed(
        ttft_ms=median([one.ttft_ms for one in own]),
        ttft_ratio=ratios([one.ttft_ms for one in own], [one.ttft_ms for one in others]),
        tpot_ms=median([_tpot_ms(one) for one in own]),
        tpot_ratio=ratios([_tpot_ms(one) for one in own], [_tpot_ms(one) for one in others]),
        latency_p50_ms=quantile(latencies, 0.5),
        latency_p95_ms=quantile(latencies, 0.95),
        latency_p99_ms=quantile(latencies, 0.99),
        tokens_per_s=median([1e3 * time_scale * usage.tokens / usage.wall_ms for usage in usages]),
    )


def _tpot_ms(one: Measured) -> float:
    return (one.latency_ms - one.ttft_ms) / max(1, one.tokens - 1)


def _cost(samples: Sequence[Sample], own: Sequence[Measured], usages: Sequence[Usage]) -> Cost:
    tokens, rounds = max(1, sum(one.tokens for one in own)), max(1, sum(one.rounds for one in own))
    remote = sum(one.remote_passes for one in own)
    counts = acceptance_counts(samples)
    names = dict.fromkeys(name for usage in usages for name in usage.cpu_ms)
    cpu = {name: sum(usage.cpu_ms.get(name, 0.0) for usage in usages) for name in names}
    ours = sum(ms for name, ms in cpu.items() if name in OURS) if cpu else None
    causes: Counter[str] = Counter()
    for one in own:
        causes.update(one.causes)
    return Cost(
        local_draft_passes=sum(one.draft_passes for one in own),
        scarce_gpu_ms_a_token=median([one.scarce_ms for one in own]),
        remote_passes=remote,
        remote_passes_wasted=remote - sum(sample.summary["remote_passes_used"] for sample in samples),
        acceptance={
            origin: round(sum(right for _, right in places) / max(1, sum(some for some, _ in places)), 4)
            for origin, places in counts.items()
        },
        acceptance_by_position={
            origin: [round(right / some, 4) if some else None for some, right in places]
            for origin, places in counts.items()
        },
        waits=dict(causes),
        waited_ms_a_request=sum(one.waited_ms for one in own) / len(own),
        bytes_up_a_token=sum(one.bytes_up for one in own) / tokens,
        bytes_down_a_token=sum(one.bytes_down for one in own) / tokens,
        wan_bytes_up_a_token=_share([usage.wan_up for usage in usages], tokens),
        wan_bytes_down_a_token=_share([usage.wan_down for usage in usages], tokens),
        own_cpu_ms_a_token=None if ours is None else ours / tokens,
        own_cpu_ms_a_round=None if ours is None else ours / rounds,
        cpu_ms_a_token={name: round(ms / tokens, 3) for name, ms in cpu.items()},
        busy=over_time(usages, "busy"),
        own_busy=over_time(usages, "own_busy"),
    )


def _share(values: Sequence[int | None], tokens: int) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / tokens if len(known) == len(values) else None
