"""``wanspec calibrate``: measure what a pass of each engine costs on this machine, and keep it for the servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.machine import describe_machine
from wanspec.cli.progress import Display
from wanspec.cli.regions import Pace, PaceType, choose_models, engine_options, engines
from wanspec.cli.render import make_console
from wanspec.cli.tables import table
from wanspec.core.costs import CostModel, CostTable
from wanspec.engines.calibrate import Grid, Progress, calibrate_draft, calibrate_target
from wanspec.engines.stored_costs import ROLES, describe_engine, store_costs
from wanspec.models import PAIRS
from wanspec.triton.regions import RegionSettings, engine_config, model_context

NAMES = {"target": "target", "draft": "local draft", "worker": "worker's draft"}
MEASURED = {
    "target": "a token and drafts after a cached prefix",
    "draft": "a token after a cached prefix",
    "worker": "leaves of a token tree after a cached prefix",
}
ROWS = {"target": "tokens", "draft": "tokens", "worker": "leaves"}
"""What the rows of the first table count."""


@click.command(cls=JsonErrors)
@click.option("--pair", type=click.Choice(list(PAIRS)), help="Target and draft that fit; default: smollm2.")
@click.option("--target", metavar="MODEL", help="Name (`wanspec models list`), folder or hub id; with --draft.")
@click.option("--draft", metavar="MODEL", help="Of the target's own tokenizer.")
@click.option(
    "--engine",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    help="Only this one; repeatable. Default: all.",
)
@engine_options
@click.option("--pace-ms", type=PaceType(), default=Pace(), help="Least duration of a step: target,draft,worker.")
@click.option(
    "--max-context",
    type=click.IntRange(64),
    default=1024,
    show_default=True,
    help="Most cached tokens; what does not fit the model's context is left out.",
)
@click.option("--repeats", type=click.IntRange(1, 100), default=5, show_default=True, help="Of each point; the median.")
@JSON_OPTION
def calibrate(**options: Any) -> None:
    """Measure what a pass of each engine costs, and keep it where `up` and `demo` find it.

    Measured are the worker's draft engine by leaves, the target by length of a verification, the local draft, each by
    the tokens in its KV cache; and what new tokens of a prompt add. Give the options that `wanspec up` will be given: a
    result is used with the same models, types, devices, threads and paces only, and on the same kind of machine. Let
    nothing else run meanwhile.

    \b
    Examples:
      wanspec calibrate
      wanspec calibrate --pair small --engine worker
      wanspec calibrate --pace-ms 100,30,30          for `wanspec up --pace-ms 100,30,30`
      wanspec calibrate --pair small --json          for programs
    """
    regions = _regions(options)
    console = make_console(stderr=options["as_json"])
    result = {}
    with Display() as display:
        for role in options["roles"] or ROLES:
            display.show(role, f"{role}: loading")
            costs = measure(regions, role, _grid(options), _shown(display, role))
            result[role] = {"file": str(store_costs(costs)), **costs.to_plain()}
            if not options["as_json"]:
                _show(console, role, costs)
    if options["as_json"]:
        click.echo(json.dumps(result, indent=2))
        return
    console.print(f"Measured: {describe_machine()}; medians of {options['repeats']}.", style="dim")
    console.print("`wanspec up` uses this with the same options.")


def measure(regions: RegionSettings, role: str, grid: Grid, progress: Progress) -> CostModel:
    """Load the engine of one role, as its server would, and measure it.

    Raises:
        ConfigError: a setting cannot work, or no point of the grid fits the context.
        ModelError: the model cannot be used.
        EngineError: a pass failed.
    """
    # Imported here: PyTorch takes seconds, which `--help` need not wait for.
    from wanspec.engines.config import build_engine
    from wanspec.engines.drafting import build_draft_engine

    config = engine_config(regions, role)
    about = describe_engine(role, config)
    if role == "worker":
        return calibrate_draft(build_draft_engine(config), grid, about=about, progress=progress)
    context = config.max_seq_len or model_context(Path(config.model_dir))
    return calibrate_target(build_engine(config), config.max_draft_len, context, grid, about=about, progress=progress)


def _regions(options: dict[str, Any]) -> RegionSettings:
    names = ("dtype", "weights", "device", "worker_device", "threads")
    each = engines(options["pace_ms"], **{name: options[name] for name in names})
    folders = choose_models(options["pair"], options["target"], options["draft"])
    return RegionSettings(*folders, *each, time_scale=options["time_scale"])


def _grid(options: dict[str, Any]) -> Grid:
    most = options["max_context"]
    return Grid(
        contexts=tuple(sorted({context for context in Grid().contexts if context < most} | {most})),
        repeats=options["repeats"],
    )


def _shown(display: Display, role: str) -> Progress:
    def show(done: int, total: int) -> None:
        display.show(role, f"{role}: measuring", done / total)

    return show


def _show(console: Console, role: str, costs: CostModel) -> None:
    console.print(f"{NAMES[role]}: {MEASURED[role]}, ms", style="bold")
    console.print(_view(ROWS[role], costs.step))
    console.print(f"{NAMES[role]}: new tokens of a prompt, ms", style="bold")
    console.print(_view("tokens", costs.prefill))


def _view(counted: str, costs: CostTable) -> Table:
    view = table(f"{counted}#", *(f"{context} cached#" for context in costs.contexts))
    for count, row in zip(costs.counts, costs.ms, strict=True):
        view.add_row(str(count), *(f"{value:.1f}" for value in row))
    return view
