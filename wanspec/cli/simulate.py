"""``wanspec simulate``: policies side by side in virtual time, through the code that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.render import make_console
from wanspec.cli.simulation_options import contenders, make_setup, numbers, progress, simulation_options
from wanspec.cli.tables import table
from wanspec.simulation.comparison import Estimate
from wanspec.simulation.experiment import CHUNK, measure, processors
from wanspec.simulation.setup import Contender, Setup
from wanspec.simulation.table import Row, Tables


@click.command(cls=JsonErrors)
@click.option(
    "--policy", default="adaptive,wanspec", show_default=True, help="By commas; with parameters: wanspec:phi=0.2:k=3."
)
@click.option("--rtt", "rtts", default="30", show_default=True, callback=numbers, help="Round trips in ms, by commas.")
@simulation_options
@click.option("--event-log", type=click.Path(path_type=Path), help="Write the first requests' event log here.")
@JSON_OPTION
def simulate(policy: str, rtts: tuple[float, ...], event_log: Path | None, as_json: bool, **options: Any) -> None:
    """Compare policies with standard speculative decoding, on the same requests, in virtual time.

    The controller, the worker and the protocol are those that serve; engines and network are functions. Beside the
    policies stand what one region can do alone, and a bound that no policy can pass.

    \b
    Examples:
      wanspec simulate --policy wanspec --rtt 10,30,70
      wanspec simulate --policy wanspec:phi=0.2,wanspec:phi=2 --leaves 64 --json
      wanspec simulate --timing 30/6 --source iid:0.7 --rtt 20 --jitter 0.3
      wanspec simulate --costs target.json --costs draft.json --costs worker.json
      wanspec simulate --event 700:crash --event 1500:restart --pause 1000
    """
    given = contenders(policy)
    setup = make_setup(options, rtts[0])
    if event_log is not None:
        _write_log(event_log, setup, given[0])
    rows: list[Row] = []
    tables = Tables(setup, given, options["processes"] or processors(), None)
    with progress(tables.requests(len(rtts))) as tell:
        tables.progress = tell
        for rtt in rtts:
            found = tables.rows(rtt)
            rows += found
            if as_json:
                for row in found:
                    click.echo(json.dumps(row.as_dict()))
    if not as_json:
        make_console().print(rows_view(rows))


def rows_view(rows: list[Row]) -> Group:
    """Make a table of rows, and the key to it."""
    view = table("RTT ms#", "policy!", "latency#", "draft passes saved#", "scarce GPU#", "ms#", "tokens a round#")
    before = None
    for row in rows:
        if before not in (None, row.rtt_ms):
            view.add_section()
        found = row.found
        view.add_row(
            f"{row.rtt_ms:g}" if before != row.rtt_ms else "",
            f"{row.policy} {row.note}".strip(),
            cell(found.latency_ratio, 1.0, ".3f"),
            cell(found.draft_passes_saved, 100.0, ".0f", "%"),
            cell(found.scarce_gpu_ratio, 1.0, ".3f"),
            f"{found.latency_ms:.0f}",
            f"{found.tokens_a_round:.2f}",
        )
        before = row.rtt_ms
    key = "Medians over requests against local with k = 2, which the paper compares with; ± half the 90% interval."
    return Group(view, Text(key, style="dim"))


def cell(estimate: Estimate, scale: float, form: str, unit: str = "") -> str:
    """An estimate, and half of its interval."""
    half = (estimate.high - estimate.low) / 2 * scale
    spread = f" ±{half:{form}}" if half else ""
    return f"{estimate.value * scale:{form}}{unit}{spread}"


def _write_log(path: Path, setup: Setup, contender: Contender) -> None:
    lines: list[str] = []
    measure(setup, contender, range(min(CHUNK, setup.requests)), lines.append)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
