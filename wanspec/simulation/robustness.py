"""Whether a policy is ever slower than one region alone: a grid of conditions, and the cells where it fares worst."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any

from wanspec.errors import ConfigError
from wanspec.simulation.catalogue import source_setup
from wanspec.simulation.comparison import Estimate, compare
from wanspec.simulation.experiment import Job, run_jobs
from wanspec.simulation.figures import Curve, Figure, Panel, Point, Table
from wanspec.simulation.gpu import Costs
from wanspec.simulation.setup import Contender, Measured, Setup
from wanspec.simulation.table import KS

LIMIT = 1.02
"""Most that the mean latency may be of the best single-region policy's."""
POLICY = Contender("adaptive", {"latency_target": 1.0}, "adaptive:latency_target=1.0")
SINGLE_REGION = (
    *(Contender("local", {"k": k}, f"local, k = {k}") for k in KS),
    Contender("local_adaptive"),
    Contender("target_only"),
)
CONFIDENCES: Mapping[str, float] = {"under": 0.5, "calibrated": 1.0, "over": 2.0}
"""Stated odds of the draft are the true ones to this power."""
EVENTS: Mapping[str, tuple[tuple[float, str], ...]] = {"none": (), "dies": ((400.0, "crash"), (1_200.0, "restart"))}
"""``dies``: in each request, the worker dies 400 ms after it began; another takes its place after 1.2 s."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of conditions. ``rate``: share of positions at which the draft's first child is right."""

    rtt: float
    rate: float
    jitter: float
    confidence: str
    event: str


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of each condition; the cells are all their combinations."""

    rtt: tuple[float, ...] = (0.0, 10.0, 30.0, 70.0, 150.0, 300.0, 500.0)
    rate: tuple[float, ...] = (0.2, 0.5, 0.8, 0.95)
    jitter: tuple[float, ...] = (0.0, 0.25, 0.5)
    confidence: tuple[str, ...] = tuple(CONFIDENCES)
    event: tuple[str, ...] = tuple(EVENTS)

    def cells(self, most: int = 0, seed: int = 0) -> list[Cell]:
        """All cells, or ``most`` of them, drawn by ``seed``."""
        found = [Cell(*values) for values in product(self.rtt, self.rate, self.jitter, self.confidence, self.event)]
        if not 0 < most < len(found):
            return found
        chosen = sorted(random.Random(seed).sample(range(len(found)), most))
        return [found[index] for index in chosen]

    def only(self, texts: Sequence[str]) -> Grid:
        """Keep some values: each text is ``NAME=VALUE[,VALUE]``.

        Raises:
            ConfigError: there is no such condition, or no such value of it.
        """
        given: dict[str, tuple[float | str, ...]] = {}
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        for text in texts:
            name, _, values = text.partition("=")
            if name not in known:
                raise ConfigError("only", f"{text!r} is not NAME=VALUES; names are {', '.join(known)}")
            given[name] = tuple(_value(name, part.strip(), known[name]) for part in values.split(","))
        return replace(self, **given)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Finding:
    """A cell's result.

    Attributes:
        cell: the conditions.
        best: the single-region policy of the least mean latency on the same requests.
        ratio: the mean of paired latency ratios against it; 5% lies above the interval's upper end.
        saved: draft passes saved against it, 0 where it has none.
    """

    cell: Cell
    best: str
    ratio: Estimate
    saved: float

    @property
    def met(self) -> bool:
        """Whether the upper bound keeps to :data:`LIMIT`."""
        return self.ratio.high <= LIMIT

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **asdict(self.cell),
            "best_single_region": self.best,
            "latency_ratio_mean": round(self.ratio.value, 4),
            "lower_bound": round(self.ratio.low, 4),
            "upper_bound": round(self.ratio.high, 4),
            "draft_passes_saved": round(self.saved, 4),
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """How a grid is tried: what all cells share.

    Attributes:
        costs: engine step times.
        requests, tokens: of each cell.
        leaves: of the worker.
        seed: of text and network.
        policy: what is tried.
    """

    costs: Costs = field(default_factory=Costs)
    requests: int = 40
    tokens: int = 100
    leaves: int = 16
    seed: int = 1
    policy: Contender = POLICY

    def run(
        self, cells: Sequence[Cell], *, processes: int = 1, progress: Callable[[int], None] | None = None
    ) -> list[Finding]:
        """Try the policy in cells; worst first.

        Policies of one region see neither the network nor the worker, so each runs once a match rate and confidence.
        """
        kinds = sorted({(cell.rate, cell.confidence) for cell in cells})
        single: list[Job] = [
            (self._setup(Cell(0.0, rate, 0.0, confidence, "none")), contender)
            for rate, confidence in kinds
            for contender in SINGLE_REGION
        ]
        tried: list[Job] = [(self._setup(cell), self.policy) for cell in cells]
        results = run_jobs([*single, *tried], processes=processes, progress=progress)
        best: dict[tuple[float, str], tuple[str, list[Measured]]] = {}
        for place, kind in enumerate(kinds):
            mine = results[place * len(SINGLE_REGION) : (place + 1) * len(SINGLE_REGION)]
            index = min(range(len(mine)), key=lambda i: sum(one.latency_ms for one in mine[i]))
            best[kind] = SINGLE_REGION[index].name, mine[index]
        found = []
        for cell, measured in zip(cells, results[len(single) :], strict=True):
            name, honest = best[cell.rate, cell.confidence]
            against = compare(measured, honest)
            found.append(Finding(cell, name, against.latency_ratio_mean, against.draft_passes_saved.value))
        return sorted(found, key=lambda finding: -finding.ratio.high)

    def requests_of(self, cells: Sequence[Cell]) -> int:
        """How many requests :meth:`run` simulates."""
        kinds = {(cell.rate, cell.confidence) for cell in cells}
        return self.requests * (len(cells) + len(kinds) * len(SINGLE_REGION))

    def _setup(self, cell: Cell) -> Setup:
        return source_setup(
            f"iid:{cell.rate:g}",
            self.seed,
            CONFIDENCES[cell.confidence],
            costs=self.costs,
            rtt_ms=cell.rtt,
            jitter=cell.jitter,
            leaves=self.leaves,
            requests=self.requests,
            tokens=self.tokens,
            deeds=EVENTS[cell.event],
            pause_ms=2_000.0 + 4 * cell.rtt if EVENTS[cell.event] else 0.0,
        )


def figure(found: Sequence[Finding], words: str) -> Figure:
    """Show findings, worst first, and over round-trip times the worst of each match rate."""
    missed = sum(not each.met for each in found)
    panels = []
    for event in dict.fromkeys(each.cell.event for each in found):
        mine = [each for each in found if each.cell.event == event]
        curves = [_worst(mine, rate) for rate in sorted({each.cell.rate for each in mine})]
        quantity = f"mean latency against the best single-region policy: the worst cell; event: {event}"
        panels.append(Panel(quantity, tuple(curves)))
    header = ("RTT ms", "match", "jitter", "confidence", "event", "best single region", "mean", "upper bound", "saved")
    return Figure(
        "robustness",
        f"{POLICY.name} where it fares worst",
        "RTT in ms",
        "Mean of paired latency ratios against the better, by mean, of local with each k, local_adaptive and "
        f"target_only. 5% lies above the upper bound, which should be at most {LIMIT:g}; in {missed} of {len(found)} "
        f"cells it is more. {words}",
        tuple(panels),
        tables=(Table(f"{len(found)} cells, worst first", header, tuple(_line(each) for each in found)),),
        rows=tuple(each.as_dict() for each in found),
    )


def _worst(found: Sequence[Finding], rate: float) -> Curve:
    points = []
    for rtt in sorted({each.cell.rtt for each in found}):
        here = [each.ratio for each in found if (each.cell.rate, each.cell.rtt) == (rate, rtt)]
        if here:
            points.append(Point(rtt, max(here, key=lambda ratio: ratio.high)))
    return Curve(f"match {rate:.0%}", tuple(points))


def _line(found: Finding) -> tuple[str, ...]:
    cell, bound = found.cell, f"{found.ratio.high:.3f}"
    conditions = (f"{cell.rtt:g}", f"{cell.rate:.0%}", f"{cell.jitter:.0%}", cell.confidence, cell.event)
    reached = (f"{found.ratio.value:.3f}", bound if found.met else f"**{bound}**", f"{found.saved:.0%}")
    return *conditions, found.best, *reached


def _value(name: str, text: str, known: Sequence[float | str]) -> float | str:
    if isinstance(known[0], str):
        if text not in known:
            raise ConfigError("only", f"{name}={text!r}: there are {', '.join(map(str, known))}")
        return text
    most = {"rate": 0.99, "jitter": 1.0}.get(name, 10_000.0)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= most or (name == "rate" and not number):
        raise ConfigError("only", f"{name}={text!r} is not a number from 0 to {most:g}")
    return number
