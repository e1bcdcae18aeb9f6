"""Markdown tables of what `wanspec demo --json` and `wanspec bench --json` print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = Sequence[tuple[str, Callable[[Any], str]]]

OUTPUT = {"reference": "the reference"}
DEMO: Columns = (
    ("policy", lambda row: f"`{row['policy']}`"),
    ("ms/token", lambda row: f"{row['ms_per_token']:.1f}"),
    ("TTFT ms", lambda row: f"{row['ttft_ms']:.0f}"),
    ("rounds", lambda row: str(row["rounds"])),
    ("tokens/round", lambda row: f"{row['tokens_per_round']:.2f}"),
    ("draft passes in the scarce region", lambda row: str(row["local_draft_passes"])),
    ("engine ms/token there", lambda row: f"{row['engine_ms_per_token']:.1f}"),
    ("output", lambda row: OUTPUT.get(row["output"], row["output"])),
)
PLACE: Columns = (
    ("RTT ms", lambda row: f"{row['rtt_ms']:g}"),
    ("policy", lambda row: f"`{row['policy']}`"),
)
BENCH: Columns = (
    *PLACE,
    ("latency", lambda row: _with_interval(row, "latency_ratio")),
    ("TTFT ms", lambda row: f"{row['ttft_ms']:.1f}"),
    ("draft passes saved", lambda row: _share(row["draft_passes_saved"])),
    ("scarce GPU", lambda row: f"{row['scarce_gpu_ratio']:.2f}"),
    ("tokens/round", lambda row: f"{row['tokens_a_round']:.2f}"),
    ("WAN bytes a token, up + down", lambda row: _wan(row)),
    ("output", lambda row: _output(row)),
)
CAPACITY: Columns = (
    ("at once", lambda row: str(row["concurrency"])),
    ("policy", lambda row: f"`{row['policy']}`"),
    ("tokens/s", lambda row: f"{row['together_tokens_per_s']:.0f}"),
    ("of `local`'s", lambda row: f"{row['together_ratio']:.2f}"),
    ("p95 ms", lambda row: f"{row['latency_p95_ms']:.0f}"),
    ("GPU busy", lambda row: f"{row['gpu_busy']:.0%}"),
    ("target batch", lambda row: f"{row['target_batch']:.1f}"),
    ("tokens/round", lambda row: f"{row['tokens_a_round']:.2f}"),
    ("our CPU ms a round", lambda row: f"{row['own_cpu_ms_a_round']:.1f}"),
    ("cores busy", lambda row: f"{row['busy']:.0%}"),
    ("output", lambda row: _output(row)),
)
OWN_COST: Columns = (
    ("at once", lambda row: str(row["at_once"])),
    ("policy", lambda row: f"`{row['policy']}`"),
    ("overhead p50 ms", lambda row: f"{row['overhead_ms']['p50']:.2f}"),
    ("p99 ms", lambda row: f"{row['overhead_ms']['p99']:.1f}"),
    ("p99 by the floor's", lambda row: f"{row['times_floor']:.1f}"),
    ("target call p50", lambda row: _median(row, "target_call_ms")),
    ("local draft call p50", lambda row: _median(row, "local_draft_call_ms")),
    ("wait p50", lambda row: _median(row, "wait_ms")),
    ("rounds/s", lambda row: f"{row['rounds_per_s']:.0f}"),
    ("CPU ms a round, all processes", lambda row: f"{row['cpu_ms_a_round']:.1f}"),
    ("of that the controller", lambda row: f"{row['cpu_ms_by_process']['controller']:.1f}"),
    ("output", lambda row: "identical" if row["exact"] else "DIFFERS"),
)
OVERHEAD: Columns = (
    ("idle CPUs", lambda row: "kept awake" if row["cpus_awake"] else "as they are"),
    ("policy", lambda row: f"`{row['policy']}`"),
    ("rounds", lambda row: str(row["count"])),
    *((f"overhead {name} ms", lambda row, name=name: f"{row[name]:.2f}") for name in ("p50", "p90", "p99")),
    ("output", lambda row: "identical" if row["exact"] else "DIFFERS"),
)
LOSS: Columns = (
    ("packets lost", lambda row: f"{row['loss']:.1%} ({row['lost_packets']})"),
    ("connections", lambda row: str(row["streams"])),
    ("requests", lambda row: str(row["requests"])),
    ("tokens/s", lambda row: f"{row['tokens_per_s']:.0f}"),
    ("p50 ms", lambda row: f"{row['latency_p50_ms']:.0f}"),
    ("p95 ms", lambda row: f"{row['latency_p95_ms']:.0f}"),
    ("p99 ms", lambda row: f"{row['latency_p99_ms']:.0f}"),
    ("tokens/round", lambda row: f"{row['tokens_a_round']:.2f}"),
    ("local draft passes", lambda row: str(row["local_draft_passes"])),
    ("WAN bytes a token", lambda row: f"{row['wan_bytes_a_token']:.0f}"),
)


def own_rows(printed: Sequence[Any]) -> list[Row]:
    """Rounds, each with the load of the same policy and number at once."""
    loads = {(row["policy"], row["at_once"]): row for row in printed if row["row"] == "load"}
    return [row | loads[row["policy"], row["at_once"]] for row in printed if row["row"] == "round"]


def overhead_rows(printed: Sequence[Any]) -> list[Row]:
    """A row for each policy of each object."""
    return [
        {"policy": name, "cpus_awake": report["cpus_awake"], "exact": report["exact"], **values}
        for report in printed
        for name, values in report.items()
        if isinstance(values, dict)
    ]


def by_loss(printed: Sequence[Any]) -> list[Row]:
    """Rows by the share of packets lost."""
    return sorted(printed, key=lambda row: (row["loss"], row["streams"]))


def markdown(rows: Sequence[Row], columns: Columns) -> list[str]:
    """Lines of a table."""
    head = "| " + " | ".join(title for title, _ in columns) + " |"
    body = ["| " + " | ".join(value(row) for _, value in columns) + " |" for row in rows]
    return [head, "|---" * len(columns) + "|", *body]


def demo_rows(printed: Sequence[Any]) -> list[Row]:
    """One row a policy, of what one demo printed."""
    (report,) = printed
    return [row for _, row in sorted(report["policies"].items(), key=lambda item: item[1]["ms_per_token"])]


def by_load(printed: Sequence[Any]) -> list[Row]:
    """Rows of several benchmarks, by the number of sequences at once."""
    return sorted(printed, key=lambda row: int(row["concurrency"]))


def _with_interval(row: Row, name: str) -> str:
    low, high = row[f"{name}_interval"]
    half = (high - low) / 2
    return f"{row[name]:.2f}" + (f" ±{half:.2f}" if half >= 0.005 else "")


def _median(row: Row, name: str) -> str:
    return f"{row[name]['p50']:.2f}" if name in row else "-"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _wan(row: Row) -> str:
    up, down = row["wan_bytes_up_a_token"], row["wan_bytes_down_a_token"]
    return "-" if up is None else f"{up:.0f} + {down:.0f} = {up + down:.0f}"


def _output(row: Row) -> str:
    if not row["exact"]:
        return "DIFFERS"
    return "near-tie" if row["divergences"] else "identical"
