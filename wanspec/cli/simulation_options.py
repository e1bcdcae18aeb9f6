"""Options of the commands that simulate, and the setup that they describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wanspec.cli.command import parse_settings
from wanspec.cli.render import make_console
from wanspec.core.costs import CostModel
from wanspec.core.policies import POLICIES
from wanspec.engines.stored_costs import ROLES, load_costs
from wanspec.errors import ConfigError
from wanspec.simulation.catalogue import NAMES, read_lines, source_setup
from wanspec.simulation.gpu import Costs
from wanspec.simulation.setup import DEEDS, Contender, Setup
from wanspec.simulation.timings import TIMINGS, timing
from wanspec.simulation.weather import RttTrace, Spikes, Weather

Command = TypeVar("Command", bound=Callable[..., Any])


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[float, ...]:
    """Read numbers of 0 and more, separated by commas."""
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0.0 <= number < float("inf") for number in found):
        raise click.BadParameter(f"{value!r} is not numbers from 0 on, separated by commas")
    return found


_OPTIONS = (
    click.option(
        "--timing",
        default="paper-cloud",
        show_default=True,
        help=f"Step times: {', '.join(TIMINGS)}, or target/draft[/worker pass] in ms such as 23.4/7.5.",
    ),
    click.option(
        "--costs",
        "costs_files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="What `wanspec calibrate` stored for an engine, instead of its step times; once for each engine.",
    ),
    click.option("--source", default="reference", show_default=True, help=f"Where tokens come from: {NAMES}."),
    click.option(
        "--confidence",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0.05, 20.0),
        help="Stated odds of the draft are the true ones to this power: above 1 it is over-confident.",
    ),
    click.option("--leaves", default=16, show_default=True, type=click.IntRange(1, 4096), help="In a worker pass."),
    click.option("--leaf-ms", default=0.0, type=click.FloatRange(0.0), help="What each further leaf adds to a pass."),
    click.option("--token-ms", default=0.0, type=click.FloatRange(0.0), help="What each draft adds to a verification."),
    click.option("--jitter", default=0.0, type=click.FloatRange(0.0, 1.0), help="Share of each way, more or less."),
    click.option(
        "--rtt-trace", type=click.Path(path_type=Path), help="File of time_ms,rtt_ms lines, instead of --rtt."
    ),
    click.option("--spikes", help="RTT:EVERY:LENGTH in ms, such as 200:2000:300: what the link rises to, how often."),
    click.option("--event", "deeds", multiple=True, help=f"MS:WHAT in each request: {', '.join(DEEDS)}."),
    click.option("--pause", default=0.0, type=click.FloatRange(0.0), help="Ms between requests."),
    click.option("--concurrent", default=1, show_default=True, type=click.IntRange(1, 256), help="Requests at once."),
    click.option(
        "--max-batch-size",
        default=0,
        show_default=True,
        type=click.IntRange(0, 256),
        help="Most requests in a pass of the GPU that --concurrent ones share; 0: no limit.",
    ),
    click.option("--requests", default=200, show_default=True, type=click.IntRange(1), help="Requests a row."),
    click.option("--tokens", default=100, show_default=True, type=click.IntRange(1, 4000), help="Tokens a request."),
    click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of text and network."),
    click.option("--processes", default=0, type=click.IntRange(0), help="0: one a core."),
)


def simulation_options(command: Command) -> Command:
    """Add the options that describe a setup."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_setup(options: dict[str, Any], rtt_ms: float) -> Setup:
    """Make the setup that options describe.

    Raises:
        ConfigError: one of them cannot work.
    """
    costs: Costs = replace(
        timing(options["timing"]).costs, target_token_ms=options["token_ms"], leaf_ms=options["leaf_ms"]
    )
    measured = _measured(options["costs_files"])
    costs = replace(costs, target=measured.get("target"), draft=measured.get("draft"), worker=measured.get("worker"))
    weather = Weather()
    if options["rtt_trace"] is not None:
        weather.path = RttTrace.read(read_lines(options["rtt_trace"]))
    elif options["spikes"]:
        weather.path = _spikes(options["spikes"])
    return source_setup(
        options["source"],
        options["seed"],
        options["confidence"],
        costs=costs,
        weather=weather,
        rtt_ms=rtt_ms,
        jitter=options["jitter"],
        leaves=options["leaves"],
        requests=options["requests"],
        tokens=options["tokens"],
        concurrent=options["concurrent"],
        max_batch_size=options["max_batch_size"],
        deeds=tuple(_deed(text) for text in options["deeds"]),
        pause_ms=options["pause"],
    )


def contenders(text: str) -> list[Contender]:
    """Read policies by commas, each with its parameters by colons.

    Raises:
        ConfigError: there is no such policy.
    """
    found = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, *settings = item.split(":")
        if name not in (*POLICIES, "oracle"):
            raise ConfigError("policy", f"{name!r} is unknown; there are {', '.join(POLICIES)}")
        found.append(Contender(name, parse_settings(tuple(settings)), item))
    return found


@contextmanager
def progress(total: int, what: str = "simulating", unit: str = "requests") -> Iterator[Callable[[int], None]]:
    """Show how many requests are done, on standard error, where that is a terminal."""
    console = make_console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=total)
        yield lambda done: bars.advance(task, done)


def _measured(files: tuple[Path, ...]) -> dict[str, CostModel]:
    found: dict[str, CostModel] = {}
    for file in files:
        costs = load_costs(file)
        role = costs.engine.get("role", "")
        if role not in ROLES or role in found:
            problem = "is of no engine of a deployment" if role not in ROLES else f"is a second one of the {role}"
            raise ConfigError("costs", f"{file} {problem}; give one of each: {', '.join(ROLES)}")
        found[role] = costs
    return found


def _spikes(text: str) -> Spikes:
    try:
        spike, every, length = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError("spikes", f"{text!r} is not RTT:EVERY:LENGTH in ms") from None
    if not (spike >= 0.0 and every > length > 0.0):
        raise ConfigError("spikes", f"{text!r}: a spike is shorter than the time between two, and above 0 ms")
    return Spikes(spike, every, length)


def _deed(text: str) -> tuple[float, str]:
    time, colon, deed = text.partition(":")
    try:
        at = float(time)
    except ValueError:
        at = -1.0
    if not colon or not 0.0 <= at < float("inf") or deed not in DEEDS:
        raise ConfigError("deeds", f"{text!r} is not MS:WHAT; what is one of {', '.join(DEEDS)}")
    return at, deed
