"""What ``wanspec bench`` prints: tables for a terminal, JSON lines, one HTML page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from wanspec.bench.figures import make_figures
from wanspec.bench.native import NATIVE
from wanspec.bench.results import Results
from wanspec.bench.rows import Row
from wanspec.cli.render import table
from wanspec.cli.simulate import cell
from wanspec.simulation.plots import save_html

Columns = Sequence[tuple[str, Callable[[Row], str]]]

SPEED: Columns = (
    ("latency#", lambda row: cell(row.found.latency_ratio, 1.0, ".2f")),
    ("p50 ms#", lambda row: f"{row.speed.latency_p50_ms.value:.0f}"),
    ("p95#", lambda row: f"{row.speed.latency_p95_ms.value:.0f}"),
    ("p99#", lambda row: f"{row.speed.latency_p99_ms.value:.0f}"),
    ("TTFT ms#", lambda row: f"{row.speed.ttft_ms.value:.1f}"),
    ("TPOT ms#", lambda row: f"{row.speed.tpot_ms.value:.1f}"),
    ("tokens/s#", lambda row: f"{row.speed.tokens_per_s.value:.1f}"),
    ("tokens a round#", lambda row: f"{row.found.tokens_a_round:.2f}"),
    ("output!", lambda row: output(row)),
)
COST: Columns = (
    ("draft passes#", lambda row: str(row.cost.local_draft_passes)),
    ("saved#", lambda row: "-" if _without_drafts(row) else cell(row.found.draft_passes_saved, 100.0, ".0f", "%")),
    ("scarce GPU#", lambda row: cell(row.found.scarce_gpu_ratio, 1.0, ".2f")),
    ("ms a token#", lambda row: f"{row.cost.scarce_gpu_ms_a_token.value:.1f}"),
    ("remote passes#", lambda row: str(row.cost.remote_passes)),
    ("wasted#", lambda row: str(row.cost.remote_passes_wasted)),
    ("accepted#", lambda row: _accepted(row)),
    ("WAN bytes a token#", lambda row: _wan(row)),
    ("CPU ms a token#", lambda row: _known(row.cost.own_cpu_ms_a_token, ".1f")),
)
KEY = (
    "Medians over requests; latency, saved and scarce GPU are paired, against `local`; ± half the 90% interval. "
    "Scarce GPU: engine time of target and local draft. Wasted: worker passes that foresaw nothing. "
    "Accepted: remote / local drafts. WAN bytes: up / down, at the relay. CPU: both servers and the controller, "
    "without any model's process, unscaled."
)


def show(results: Results, rows: Sequence[Row], warnings: Sequence[str], console: Console) -> None:
    """Print tables, warnings and conditions."""
    for columns in (SPEED, COST):
        console.print(_table(rows, columns))
    console.print(KEY, style="dim")
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(exactness(rows), style="bold" if results.exact else "bold red")
    console.print(conditions(results), style="dim")


def json_lines(results: Results, rows: Sequence[Row], warnings: Sequence[str]) -> list[str]:
    """One object a row; each says how it was measured."""
    told: dict[str, Any] = asdict(results.conditions) | {"warnings": list(warnings)}
    return [json.dumps(row.as_dict() | told) for row in rows]


def write_html(results: Results, rows: Sequence[Row], warnings: Sequence[str], path: Path) -> None:
    """Write one page with tables and figures.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    told = "".join(f'<p class="warning">Warning: {escape(warning)}</p>' for warning in warnings)
    tables = "".join(_html(rows, columns) for columns in (SPEED, COST))
    opening = f"<p>{escape(conditions(results))}</p><p>{escape(exactness(rows))}</p>{told}{tables}<p>{escape(KEY)}</p>"
    save_html(make_figures(results, rows, ""), path, "Policies on real servers", opening)


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
    return " ".join(
        [
            f"Measured {how.date} on {how.machine}: real Triton servers, {how.models} in {how.dtype}, {paced};",
            f"{how.network}; answers of up to {how.tokens} tokens, prompts in the KV cache already.{scale}",
            *how.notes,
        ]
    )


def exactness(rows: Sequence[Row]) -> str:
    """Whether every output is the target's own."""
    wrong = [f"{row.policy} at RTT {row.rtt_ms:g} ms" for row in rows if not row.exact]
    if wrong:
        return f"NOT the target's own output: {', '.join(wrong)}. Please report it."
    tokens, ties = sum(row.tokens for row in rows), sum(row.divergences for row in rows)
    near = f", but for {ties} near-ties of floating point" if ties else ""
    return f"Every output is the target's own{near}: {tokens} tokens compared."


def output(row: Row) -> str:
    """The output of a row, in a word."""
    if not row.exact:
        return "DIFFERS"
    return "near-tie" if row.divergences else "identical"


def _table(rows: Sequence[Row], columns: Columns) -> Table:
    leading = _leading(rows)
    view = table(*(title for title, _ in (*leading, *columns)))
    before: tuple[float, int] | None = None
    for row in rows:
        place = row.rtt_ms, row.concurrency
        if before not in (None, place):
            view.add_section()
        before = place
        view.add_row(*(value(row) for _, value in (*leading, *columns)))
    return view


def _html(rows: Sequence[Row], columns: Columns) -> str:
    every = (*_leading(rows), *columns)
    head = "".join(f"<th>{escape(title.rstrip('#!'))}" for title, _ in every)
    body = "".join("<tr>" + "".join(f"<td>{escape(value(row))}" for _, value in every) for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _leading(rows: Sequence[Row]) -> Columns:
    at_once: Columns = (("at once#", lambda row: str(row.concurrency)),)
    several = any(row.concurrency > 1 for row in rows)
    return (("RTT#", lambda row: f"{row.rtt_ms:g}"), *(at_once if several else ()), ("policy!", lambda row: row.policy))


def _without_drafts(row: Row) -> bool:
    return row.policy in (NATIVE, "target_only")


def _accepted(row: Row) -> str:
    shares = [row.cost.acceptance.get(origin) for origin in ("remote", "local")]
    return " / ".join("-" if share is None else f"{share:.0%}" for share in shares) if any(shares) else "-"


def _wan(row: Row) -> str:
    up, down = row.cost.wan_bytes_up_a_token, row.cost.wan_bytes_down_a_token
    return "-" if up is None or down is None else f"{up:.0f} / {down:.0f}"


def _known(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
