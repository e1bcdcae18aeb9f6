"""``wanspec reproduce``: the paper's figures, made anew, and those that show what ``adaptive`` adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.figures import MAKERS, PAPER
from wanspec.cli.progress import waiting
from wanspec.cli.simulation_options import progress
from wanspec.errors import ConfigError
from wanspec.simulation.experiment import processors
from wanspec.simulation.figures import Figure, agreements, markdown
from wanspec.simulation.plots import save_png, save_reproduction


@click.command(cls=JsonErrors)
@click.argument("figure", type=click.Choice([*MAKERS, "all"]))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="reproduction", show_default=True)
@click.option("--requests", default=20, show_default=True, type=click.IntRange(2), help="A point; the paper has 20.")
@click.option("--tokens", default=100, show_default=True, type=click.IntRange(2, 4000), help="A request.")
@click.option("--timing", "timing_name", help="Step times other than the figure's: a profile, or target/draft in ms.")
@click.option("--source", help="Where tokens come from, for figures of one source: see wanspec simulate --help.")
@click.option("--trace", "traces", multiple=True, type=click.Path(path_type=Path), help="adaptive: a recorded pair.")
@click.option("--only", multiple=True, help="robustness: NAME=VALUES of rtt, rate, jitter, confidence or event.")
@click.option("--cells", default=0, type=click.IntRange(0), help="robustness: only so many, drawn by the seed.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--processes", default=0, type=click.IntRange(0), help="0: one a core.")
@JSON_OPTION
def reproduce(figure: str, out: Path, processes: int, as_json: bool, **options: Any) -> None:
    """Make figures: Markdown, JSON, PNG and an HTML page, with what the paper states or what was aimed at beside ours.

    \b
    fig7        what branching, theta and phi add, over round-trip times
    fig8        100 values of phi at five round-trip times
    fig9        the cloud deployment's round-trip times and step times
    all         these three, which are the paper's
    adaptive    what adaptive gains, with fewer and more leaves, slower passes, a sampling target, recorded pairs
    pareto      latency against draft passes: adaptive by its price, wanspec by phi
    robustness  adaptive with a latency target, over 504 conditions, worst first

    \b
    Examples:
      wanspec reproduce fig9
      wanspec reproduce fig9 --json              one object a figure and line
      wanspec reproduce all --requests 200 --out results
      wanspec reproduce adaptive --requests 200 --trace small.trace.gz
      wanspec reproduce robustness --cells 50
      wanspec reproduce robustness --only rtt=0,30 --only rate=0.2 --only event=dies --requests 60
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("out", f"{out} cannot be made: {error}") from error
    made = []
    for name in PAPER if figure == "all" else (figure,):
        making = MAKERS[name](name, options, processes or processors())
        with progress(making.requests, name) as tell:
            made.append(making.make(tell))
        with waiting(f"drawing {name}"):
            values = _write(made[-1], out)
        click.echo(json.dumps(values) if as_json else markdown(made[-1]))
    with waiting("drawing the page"):
        save_reproduction(made, out / "figures.html")
    click.echo(f"written to {out}/: " + ", ".join(sorted(path.name for path in out.iterdir())), err=True)


def _write(figure: Figure, out: Path) -> dict[str, Any]:
    found = agreements(figure)
    (out / f"{figure.name}.md").write_text(markdown(figure), encoding="utf-8")
    values: dict[str, Any] = figure.as_dict()
    values["agreements"] = [{"words": a.stated.words, "ours": a.ours.value, "agrees": a.agrees} for a in found]
    (out / f"{figure.name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    save_png(figure, out / f"{figure.name}.png")
    return values
