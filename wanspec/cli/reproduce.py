"""``wanspec reproduce``: the paper's figures, made anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wanspec.cli.command import JsonErrors
from wanspec.cli.simulation_options import progress
from wanspec.errors import ConfigError
from wanspec.simulation.catalogue import make_source
from wanspec.simulation.experiment import processors
from wanspec.simulation.figures import Figure, agreements, markdown
from wanspec.simulation.plots import save_png, save_reproduction
from wanspec.simulation.reproduction import Reproduction, requests_of
from wanspec.simulation.setup import Setup
from wanspec.simulation.timings import timing

FIGURES = ("fig7", "fig8", "fig9")
_SOURCES = {"fig7": "iid:0.8", "fig8": "iid:0.8", "fig9": "markov:0.8:0.83"}
_TIMINGS = {"fig7": "70b-8gpu", "fig8": "70b-8gpu", "fig9": "paper-cloud"}


@click.command(cls=JsonErrors)
@click.argument("figure", type=click.Choice([*FIGURES, "all"]))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="reproduction", show_default=True)
@click.option("--requests", default=20, show_default=True, type=click.IntRange(2), help="A point; the paper has 20.")
@click.option("--timing", "timing_name", help="Step times other than the figure's: a profile, or target/draft in ms.")
@click.option("--source", help="Where tokens come from, other than the figure's: see wanspec simulate --help.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--processes", default=0, type=click.IntRange(0), help="0: one a core.")
def reproduce(
    figure: str,
    out: Path,
    requests: int,
    timing_name: str | None,
    source: str | None,
    seed: int,
    processes: int,
) -> None:
    """Make figures 7, 8 or 9 of the paper anew: Markdown, JSON, PNG and an HTML page, the paper's figures beside ours.

    \b
    fig7  what branching, theta and phi add, over round-trip times
    fig8  100 values of phi at five round-trip times
    fig9  the cloud deployment's round-trip times and step times

    \b
    Examples:
      wanspec reproduce fig9
      wanspec reproduce all --requests 200 --out results
    """
    names = FIGURES if figure == "all" else (figure,)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("out", f"{out} cannot be made: {error}") from error
    made = []
    for name in names:
        with progress(requests_of(name, requests), name) as tell:
            made.append(
                _figure(
                    name,
                    timing_name or _TIMINGS[name],
                    source or _SOURCES[name],
                    Setup(make_source(source or _SOURCES[name], seed), requests=requests, seed=seed),
                    Reproduction(Setup(make_source("reference", seed)), "", processes or processors(), tell),
                )
            )
        _write(made[-1], out)
    save_reproduction(made, out / "figures.html")
    click.echo(f"written to {out}/: " + ", ".join(sorted(path.name for path in out.iterdir())), err=True)


def _figure(name: str, timing_name: str, source: str, setup: Setup, how: Reproduction) -> Figure:
    costs = timing(timing_name).costs
    conditions = (
        f"Target step {costs.target_ms:g} ms, draft step and worker pass {costs.draft_ms:g} ms ({timing_name}); "
        f"source {source}; {setup.requests} requests of {setup.tokens} tokens a point."
    )
    made: Figure = getattr(replace(how, setup=replace(setup, costs=costs), conditions=conditions), name)()
    return made


def _write(figure: Figure, out: Path) -> None:
    found = agreements(figure)
    click.echo(markdown(figure))
    (out / f"{figure.name}.md").write_text(markdown(figure), encoding="utf-8")
    values: dict[str, Any] = figure.as_dict()
    values["agreements"] = [{"words": a.stated.words, "ours": a.ours.value, "agrees": a.agrees} for a in found]
    (out / f"{figure.name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    save_png(figure, out / f"{figure.name}.png")
