"""Whether the machine was fast enough for what it was to stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from wanspec.bench.results import Results, Usage
from wanspec.bench.rows import over_time

LATE = 1.05
"""Steps that take this much of their pace are the engine's own, not paced ones."""
BUSY = 0.8
"""With less of the cores idle, processes wait for each other."""

BUSY_SHARED = 0.6
"""The same where capacity is measured: many sequences need a core within moments of each other."""

OTHERS = 0.2
"""Share of the cores above which what else runs here is told."""

_Step = Callable[[Mapping[str, Any]], float | None]
_STEPS: dict[str, _Step] = {
    "target": lambda summary: summary["target_ms"] / summary["rounds"] if summary["rounds"] else None,
    "local draft": lambda summary: (
        summary["local_draft_ms"] / summary["local_draft_passes"] if summary["local_draft_passes"] else None
    ),
    "worker": lambda summary: summary["pass_ms"],
}


def find_warnings(results: Results) -> list[str]:
    """Say where steps took longer than their pace, and where the processor was nearly full or shared with others."""
    conditions = results.conditions
    found = []
    for (name, step), pace in zip(_STEPS.items(), conditions.pace_ms, strict=True):
        times = _on_shared_gpu(results, name) or [
            ms for sample in results.samples if (ms := step(sample.summary)) is not None
        ]
        wanted = pace * conditions.time_scale
        if wanted and times and median(times) > LATE * wanted:
            found.append(
                f"{name}: a step took {median(times):.1f} ms, its pace is {wanted:.1f} ms: "
                "this machine is too slow for it; raise --time-scale"
            )
    busy, own = (over_time(results.usages, field) for field in ("busy", "own_busy"))
    busiest = _busiest(results) if conditions.shared_gpu else busy
    if own and busy - own > OTHERS:
        found.append(
            f"other processes had {busy - own:.0%} of this machine's cores: times are not the deployment's alone"
        )
    elif conditions.profile and busiest > (BUSY_SHARED if conditions.shared_gpu else BUSY):
        found.append(f"the machine's cores were in use {busiest:.0%} of the time: raise --time-scale")
    return found


def _on_shared_gpu(results: Results, engine: str) -> list[float]:
    """Mean times of passes on a GPU that engines share: there, steps of one request wait for their turns too."""
    name = {"target": "target", "local draft": "draft"}.get(engine, "")
    uses = [usage.gpu[name] for usage in results.usages if name in usage.gpu]
    return [ms / passes for ms, passes, _ in uses if passes]


def _busiest(results: Results) -> float:
    """Share of the cores in use at the place where it was highest."""
    places: dict[tuple[str, int], list[Usage]] = {}
    for usage in results.usages:
        places.setdefault((usage.policy, usage.concurrency), []).append(usage)
    return max(over_time(usages, "busy") for usages in places.values())
