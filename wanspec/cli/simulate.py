"""``wanspec simulate``: policies side by side in virtual time, through the code that serves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wanspec.cli.command import JSON_OPTION, JsonErrors, parse_settings
from wanspec.cli.render import make_console, table
from wanspec.simulation.comparison import Comparison, compare
from wanspec.simulation.experiment import Contender, Setup, run
from wanspec.simulation.sources import reference
from wanspec.simulation.timings import timing

BASELINE = Contender("local", {"k": 2}, "local")


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    """Read numbers separated by commas."""
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not numbers separated by commas") from None


@click.command(cls=JsonErrors)
@click.option("--policy", default="wanspec", help="Policies, by commas; parameters by colons: wanspec:phi=0.2:k=3.")
@click.option("--timing", "timing_name", default="paper-cloud", help="A profile, or target/draft ms such as 23.4/7.5.")
@click.option("--rtt", "rtts", default="30", callback=numbers, help="Round-trip times in ms, by commas.")
@click.option("--leaves", default=16, type=click.IntRange(1, 4096), help="Most leaves in one worker pass.")
@click.option("--requests", default=200, type=click.IntRange(1), help="Requests a row.")
@click.option("--tokens", default=100, type=click.IntRange(1), help="Tokens a request.")
@click.option("--seed", default=1, type=click.IntRange(0), help="Another seed, other text and network.")
@click.option("--processes", default=0, type=click.IntRange(0), help="0: one a core.")
@JSON_OPTION
def simulate(
    policy: str,
    timing_name: str,
    rtts: tuple[float, ...],
    leaves: int,
    requests: int,
    tokens: int,
    seed: int,
    processes: int,
    as_json: bool,
) -> None:
    """Compare policies with standard speculative decoding, on the same requests, in virtual time.

    \b
    Examples:
      wanspec simulate --policy wanspec --rtt 10,30,70
      wanspec simulate --policy wanspec:phi=0.2,wanspec:phi=2 --leaves 64 --json
    """
    contenders = [BASELINE, *_contenders(policy)]
    costs = timing(timing_name).costs
    rows: list[dict[str, Any]] = []
    with _progress(len(rtts) * len(contenders) * requests) as tell:
        for rtt in rtts:
            setup = Setup(
                reference(seed), costs, rtt_ms=rtt, leaves=leaves, requests=requests, tokens=tokens, seed=seed
            )
            measured = run(setup, contenders, processes=processes or os.cpu_count() or 1, progress=tell)
            for contender in contenders:
                found = compare(measured[contender.name], measured[BASELINE.name])
                rows.append(_row(contender, rtt, leaves, found))
                if as_json:
                    click.echo(json.dumps(rows[-1]))
    if not as_json:
        _show(rows)


def _contenders(text: str) -> list[Contender]:
    found = []
    for item in text.split(","):
        name, *settings = item.strip().split(":")
        if item.strip() != BASELINE.name:
            found.append(Contender(name, parse_settings(tuple(settings)), item.strip()))
    return found


def _row(contender: Contender, rtt: float, leaves: int, found: Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {"policy": contender.name, "rtt_ms": rtt, "leaves": leaves}
    for name, value in asdict(found).items():
        if isinstance(value, dict):
            row[name] = round(value["value"], 4)
            row[f"{name}_interval"] = [round(value["low"], 4), round(value["high"], 4)]
        else:
            row[name] = round(value, 4)
    return row


def _show(rows: list[dict[str, Any]]) -> None:
    view = table("policy", "RTT ms#", "latency#", "90%", "passes saved#", "90%", "scarce GPU#", "90%")
    for row in rows:
        cells = [row["policy"], f"{row['rtt_ms']:g}"]
        for name, form in (("latency_ratio", ".3f"), ("draft_passes_saved", ".1%"), ("scarce_gpu_ratio", ".3f")):
            low, high = row[f"{name}_interval"]
            cells += [format(row[name], form), f"{low:{form}} to {high:{form}}"]
        view.add_row(*cells)
    make_console().print(view)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    console: Console = make_console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("simulating", total=total)
        yield lambda done: bars.advance(task, done)
