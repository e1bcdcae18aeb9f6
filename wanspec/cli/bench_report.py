"""What ``wanspec bench`` prints: tables for a terminal, JSON lines, one HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wanspec.bench.figures import make_figures
from wanspec.bench.load import possible_ratio
from wanspec.bench.native import NATIVE
from wanspec.bench.results import Results
from wanspec.bench.rows import Row
from wanspec.cli.simulate import cell
from wanspec.cli.tables import table
from wanspec.simulation.plots import save_html

Columns = Sequence[tuple[str, Callable[[Row], str]]]

SPEED: Columns = (
    ("latency\nratio#", lambda row: cell(row.found.latency_ratio, 1.0, ".2f")),
    ("p50\nms#", lambda row: f"{row.speed.latency_p50_ms.value:.0f}"),
    ("p95\nms#", lambda row: f"{row.speed.latency_p95_ms.value:.0f}"),
    ("p99\nms#", lambda row: f"{row.speed.latency_p99_ms.value:.0f}"),
    ("TTFT\nms#", lambda row: f"{row.speed.ttft_ms.value:.1f}"),
    ("TPOT\nms#", lambda row: f"{row.speed.tpot_ms.value:.1f}"),
    ("tokens\n/s#", lambda row: f"{row.speed.tokens_per_s.value:.1f}"),
    ("exact", lambda row: output(row)),
)
SCARCE: Columns = (
    ("draft\npasses#", lambda row: str(row.cost.local_draft_passes)),
    ("saved#", lambda row: "-" if _without_drafts(row) else cell(row.found.draft_passes_saved, 100.0, ".0f", "%")),
    ("GPU time\nratio#", lambda row: cell(row.found.scarce_gpu_ratio, 1.0, ".2f")),
    ("GPU ms\n/token#", lambda row: f"{row.cost.scarce_gpu_ms_a_token.value:.1f}"),
    ("tokens\n/round#", lambda row: f"{row.found.tokens_a_round:.2f}"),
    ("CPU ms\n/token#", lambda row: _known(row.cost.own_cpu_ms_a_token, ".1f")),
)
WAN: Columns = (
    ("worker\npasses#", lambda row: str(row.cost.remote_passes or "-")),
    ("wasted#", lambda row: _wasted(row)),
    ("accepted#", lambda row: _accepted(row)),
    ("waited\nms#", lambda row: f"{row.cost.waited_ms_a_request:.0f}" if row.cost.remote_passes else "-"),
    ("up B\n/token#", lambda row: _known(row.cost.wan_bytes_up_a_token, ".0f")),
    ("down B\n/token#", lambda row: _known(row.cost.wan_bytes_down_a_token, ".0f")),
)
CAPACITY: Columns = (
    ("tokens\n/s#", lambda row: f"{row.load.together_tokens_per_s.value:.1f}"),
    ("of\nlocal's#", lambda row: cell(row.load.together_ratio, 1.0, ".2f")),
    ("p95\nms#", lambda row: f"{row.speed.latency_p95_ms.value:.0f}"),
    ("GPU\nbusy#", lambda row: _known(row.load.gpu_busy, ".0%")),
    ("target\nbatch#", lambda row: _known(row.load.target_batch, ".1f")),
    ("GPU ms\n/token#", lambda row: _known(row.load.gpu_ms_a_token, ".2f")),
    ("CPU ms\n/round#", lambda row: _known(row.cost.own_cpu_ms_a_round, ".1f")),
    ("cores\nbusy#", lambda row: f"{row.cost.busy:.0%}"),
)
TABLES: Mapping[str, Columns] = {"Speed": SPEED, "The scarce region": SCARCE, "The worker and the WAN": WAN}
KEY = (
    "Medians over requests; the ratios and the share saved are of paired answers, against `local`; ± half the 90% "
    "interval. GPU time: of the engines of target and local draft. CPU: both servers and the controller, without any "
    "model's process, as measured. Wasted: worker passes none of whose tokens became text. Accepted: of the worker's "
    "drafts / of the local draft's. Waited: in an answer. "
    "B: bytes at the relay, all framing and pings included. Capacity: tokens/s while all run at once, from each "
    "answer's own rate; GPU busy: in a pass of either model; target batch: sequences a pass."
)


def show(results: Results, rows: Sequence[Row], warnings: Sequence[str], console: Console) -> None:
    """Print tables, warnings and conditions."""
    for title, columns in headed(results).items():
        console.print(title, style="bold")
        console.print(_table(rows, columns))
    console.print(KEY, style="dim")
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    for line in saturation(results, rows):
        console.print(line, markup=False)
    console.print(exactness(results, rows), style="bold" if results.exact else "bold red")
    console.print(conditions(results), style="dim")


def json_lines(results: Results, rows: Sequence[Row], warnings: Sequence[str]) -> list[str]:
    """One object a row; each says how it was measured."""
    told: dict[str, Any] = asdict(results.conditions) | {"warnings": list(warnings)}
    return [json.dumps(told | row.as_dict()) for row in rows]


def write_html(results: Results, rows: Sequence[Row], warnings: Sequence[str], path: Path) -> None:
    """Write one page with tables and figures.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    told = "".join(f'<p class="warning">Warning: {escape(warning)}</p>' for warning in warnings)
    tables = "".join(f"<h2>{title}</h2>{_html(rows, columns)}" for title, columns in headed(results).items())
    said = "".join(
        f"<p>{escape(text)}</p>" for text in (conditions(results), *saturation(results, rows), exactness(results, rows))
    )
    opening = f"{said}{told}{tables}<p>{escape(KEY)}</p>"
    save_html(make_figures(results, rows, ""), path, "Policies on real servers", opening)


def headed(results: Results) -> Mapping[str, Columns]:
    """Columns by heading; capacity where it was measured."""
    return {"Capacity of one GPU": CAPACITY, **TABLES} if results.conditions.shared_gpu else TABLES


def saturation(results: Results, rows: Sequence[Row]) -> list[str]:
    """What one GPU serves at most, against the baseline, in words; nothing where capacity was not measured."""
    possible = possible_ratio(results.conditions)
    if not results.conditions.shared_gpu or possible is None:
        return []
    lines = []
    for rtt in sorted({row.rtt_ms for row in rows}):
        here = [row for row in rows if row.rtt_ms == rtt]
        best = {row.policy: row for row in sorted(here, key=lambda row: row.load.together_tokens_per_s.value)}
        base = best.pop(results.conditions.baseline).load.together_tokens_per_s.value
        found = [
            f"{name} {row.load.together_tokens_per_s.value:.1f} ({row.load.together_tokens_per_s.value / base:.2f} "
            f"times, {row.concurrency} at once)"
            for name, row in best.items()
        ]
        lines.append(
            f"At saturation, RTT {rtt:g} ms: tokens/s of local {base:.1f}, {', '.join(found)}. "
            f"Without any local draft pass, {possible:.2f} times is possible at as many tokens a round."
        )
    return lines


def conditions(results: Results) -> str:
    """How it was measured, in words."""
    how = results.conditions
    target, draft, worker = how.pace_ms
    paced = (
        f"engines paced to {target:g} / {draft:g} / {worker:g} ms (target, local draft, worker; {how.profile})"
        if how.profile
        else "engines unpaced, so that those on one processor compete for it"
    )
    scale = (
        f" Paces and delays were {how.time_scale:g} times as long; all times but CPU's are given without that factor."
        if how.time_scale != 1.0
        else ""
    )
    taken = f"at most {how.max_batch_size}" if how.max_batch_size else "all"
    gpu = (
        " Target and local draft took turns on one GPU: one pass at a time, "
        f"over {taken} of the requests that wait for its model."
        if how.shared_gpu
        else ""
    )
    return " ".join(
        [
            f"Measured {how.date} on {how.machine}: real Triton servers, {how.models} in {how.dtype}, {paced};",
            f"{how.network}; answers of up to {how.max_tokens} tokens, prompts in the KV cache already.{gpu}{scale}",
            *how.notes,
        ]
    )


def exactness(results: Results, rows: Sequence[Row]) -> str:
    """Whether every output is the target's own."""
    wrong = [f"{row.policy} at RTT {row.rtt_ms:g} ms" for row in rows if not row.exact]
    if wrong:
        return f"NOT the target's own output: {', '.join(wrong)}. Please report it."
    tokens, ties = sum(row.tokens for row in rows), sum(row.divergences for row in rows)
    if results.too_many_near_ties:
        return f"NOT the target's own output: {ties} near-ties in {tokens} tokens are too many. Please report it."
    near = f", but for {ties} near-ties of floating point" if ties else ""
    return f"Every output is the target's own{near}: {tokens} tokens compared."


def output(row: Row) -> str:
    """Whether the output is the target's own, in a word."""
    if not row.exact:
        return "NO"
    return "near-tie" if row.divergences else "yes"


def _table(rows: Sequence[Row], columns: Columns) -> Table:
    view = table("policy!", *(title for title, _ in columns))
    before: tuple[float, int] | None = None
    several = any(row.concurrency > 1 for row in rows)
    for row in rows:
        place = row.rtt_ms, row.concurrency
        if before != place:
            if before is not None:
                view.add_section()
            at_once = f", {row.concurrency} at once" if several else ""
            view.add_row(Text(f"RTT {row.rtt_ms:g} ms{at_once}", style="bold"))
        before = place
        view.add_row(row.policy, *(value(row) for _, value in columns))
    return view


def _html(rows: Sequence[Row], columns: Columns) -> str:
    every: Columns = (
        ("RTT ms", lambda row: f"{row.rtt_ms:g}"),
        ("at once", lambda row: str(row.concurrency)),
        ("policy", lambda row: row.policy),
        *columns,
    )
    head = "".join(f"<th>{escape(title.rstrip('#!').replace(chr(10), ' '))}" for title, _ in every)
    body = "".join("<tr>" + "".join(f"<td>{escape(value(row))}" for _, value in every) for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _without_drafts(row: Row) -> bool:
    return row.policy in (NATIVE, "target_only")


def _accepted(row: Row) -> str:
    shares = [row.cost.acceptance.get(origin) for origin in ("remote", "local")]
    return " / ".join("-" if share is None else f"{share:.0%}" for share in shares) if any(shares) else "-"


def _wasted(row: Row) -> str:
    return f"{row.cost.remote_passes_wasted / row.cost.remote_passes:.0%}" if row.cost.remote_passes else "-"


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
