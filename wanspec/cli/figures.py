"""The figures that ``wanspec reproduce`` makes, each from the command's options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from wanspec.simulation import robustness
from wanspec.simulation.catalogue import source_setup
from wanspec.simulation.evaluation import Evaluation, conditions
from wanspec.simulation.figures import Figure
from wanspec.simulation.gpu import Costs
from wanspec.simulation.pareto import Sweep
from wanspec.simulation.reproduction import Reproduction, requests_of
from wanspec.simulation.setup import Setup
from wanspec.simulation.timings import timing

Options: TypeAlias = Mapping[str, Any]
Tell: TypeAlias = Callable[[int], None]

_SOURCES = {"fig7": "iid:0.8", "fig8": "iid:0.8", "fig9": "markov:0.8:0.83"}
_TIMINGS = {"fig7": "70b-8gpu", "fig8": "70b-8gpu"}


@dataclass(frozen=True, slots=True)
class Making:
    """A figure to be made: how many requests it takes, and what makes it."""

    requests: int
    make: Callable[[Tell], Figure]


def _of_paper(name: str, options: Options, processes: int) -> Making:
    setup = _setup(name, options)
    words = f"{_times(name, options)}; source {_source(name, options)}; {_size(setup)}."
    how = Reproduction(setup, words, processes)

    def make(tell: Tell) -> Figure:
        made: Figure = getattr(replace(how, progress=tell), name)()
        return made

    return Making(requests_of(name, setup.requests), make)


def _adaptive(name: str, options: Options, processes: int) -> Making:
    size = options["requests"], options["tokens"], options["seed"]
    found = conditions(_costs(name, options), *size, options["traces"])
    words = f"{_times(name, options)}; {_size(found[0].setup)}, as many as there are of a trace."
    how = Evaluation(found, words, processes=processes)
    return Making(how.requests, lambda tell: replace(how, progress=tell).figure())


def _pareto(name: str, options: Options, processes: int) -> Making:
    setup = _setup(name, options)
    words = f"{_times(name, options)}; source {_source(name, options)}; {setup.leaves} leaves; {_size(setup)}."
    how = Sweep(setup, words, processes=processes)
    return Making(how.requests, lambda tell: replace(how, progress=tell).figure())


def _robustness(name: str, options: Options, processes: int) -> Making:
    how = robustness.Trial(_costs(name, options), options["requests"], options["tokens"], seed=options["seed"])
    cells = robustness.Grid().only(options["only"]).cells(options["cells"], options["seed"])
    words = f"{_times(name, options)}; {how.leaves} leaves; {how.requests} requests of {how.tokens} tokens a cell."
    return Making(
        how.requests_of(cells),
        lambda tell: robustness.figure(how.run(cells, processes=processes, progress=tell), words),
    )


PAPER = ("fig7", "fig8", "fig9")
MAKERS: Mapping[str, Callable[[str, Options, int], Making]] = {
    **dict.fromkeys(PAPER, _of_paper),
    "adaptive": _adaptive,
    "pareto": _pareto,
    "robustness": _robustness,
}


def _setup(name: str, options: Options) -> Setup:
    return source_setup(
        _source(name, options),
        options["seed"],
        costs=_costs(name, options),
        requests=options["requests"],
        tokens=options["tokens"],
    )


def _source(name: str, options: Options) -> str:
    return options["source"] or _SOURCES.get(name, "reference")


def _timing(name: str, options: Options) -> str:
    return options["timing_name"] or _TIMINGS.get(name, "paper-cloud")


def _costs(name: str, options: Options) -> Costs:
    return timing(_timing(name, options)).costs


def _times(name: str, options: Options) -> str:
    costs, called = _costs(name, options), _timing(name, options)
    worker = f"draft step and worker pass {costs.draft_ms:g} ms"
    if costs.pass_ms != costs.draft_ms:
        worker = f"draft step {costs.draft_ms:g} ms, worker pass {costs.pass_ms:g} ms"
    return f"Target step {costs.target_ms:g} ms, {worker} ({called})"


def _size(setup: Setup) -> str:
    return f"{setup.requests} requests of {setup.tokens} tokens a point"
