"""Latency against draft passes: what ``adaptive`` reaches by its price beside what ``wanspec`` reaches by phi."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wanspec.simulation.comparison import Comparison, compare
from wanspec.simulation.experiment import run_jobs
from wanspec.simulation.figures import LATENCY, Curve, Figure, Panel, Point, Table
from wanspec.simulation.setup import Contender, Setup
from wanspec.simulation.table import BASELINE

RTTS = (10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0)
PRICES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6)
PHIS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.5, 3.2)


@dataclass(frozen=True, slots=True)
class Knob:
    """A policy's parameter, the values that it is swept over, and other parameters that go with each."""

    policy: str
    parameter: str
    values: tuple[float, ...]
    fixed: tuple[tuple[str, float], ...] = ()

    @property
    def title(self) -> str:
        """The curve's name."""
        return f"{self.policy}, {self.parameter} {min(self.values):g} to {max(self.values):g}"

    def contenders(self) -> list[Contender]:
        """One a value."""
        fixed = dict(self.fixed)
        return [Contender(self.policy, {**fixed, self.parameter: value}, f"{value:g}") for value in self.values]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one value of a parameter leads: latency and draft passes, both as shares of the baseline's."""

    value: float
    latency: float
    passes: float


@dataclass(frozen=True, slots=True)
class Lead:
    """How one front lies against another, over the other's places.

    Attributes:
        passes: how many fewer passes at no more latency, least and most over the places; None where one of them is
            faster than all of ours.
        latency: how much less latency at no more passes, least and most; None where one of them has fewer passes
            than all of ours.
        beyond: for every place of theirs there is one of ours that is better in one of the two and no worse in the
            other.
    """

    passes: tuple[float, float] | None
    latency: tuple[float, float] | None
    beyond: bool


def front(places: Sequence[Place]) -> list[Place]:
    """Keep the places than which no other is better in one of the two and no worse in the other; fastest first."""
    kept: list[Place] = []
    for place in sorted(places, key=lambda each: (each.latency, each.passes)):
        if not kept or place.passes < kept[-1].passes:
            kept.append(place)
    return kept


def lead(ours: Sequence[Place], theirs: Sequence[Place]) -> Lead:
    """Compare fronts. Only places that were reached count: nothing is drawn between them."""
    mine, other = front(ours), front(theirs)
    fewer = [_most([t.passes - m.passes for m in mine if m.latency <= t.latency]) for t in other]
    sooner = [_most([t.latency - m.latency for m in mine if m.passes <= t.passes]) for t in other]
    beyond = all(
        any(m.latency <= t.latency and m.passes <= t.passes and (m.latency, m.passes) != (t.latency, t.passes)
            for m in mine)
        for t in other
    )  # fmt: skip
    return Lead(_range(fewer), _range(sooner), beyond)


@dataclass(frozen=True, slots=True)
class Sweep:
    """How the fronts are made.

    Attributes:
        setup: all but the round-trip time.
        words: the same, in a sentence.
        ours, theirs: what is swept.
        rtts: round-trip times, ms.
        processes: how many to use.
        progress: told of requests that are done.
    """

    setup: Setup
    words: str = ""
    ours: Knob = Knob("adaptive", "price", PRICES, (("slack", 100.0),))
    theirs: Knob = Knob("wanspec", "phi", PHIS)
    rtts: tuple[float, ...] = RTTS
    processes: int = 1
    progress: Callable[[int], None] | None = None

    @property
    def requests(self) -> int:
        """How many requests :meth:`figure` simulates."""
        return self.setup.requests * (1 + len(self.rtts) * (len(self.ours.values) + len(self.theirs.values)))

    def figure(self) -> Figure:
        """One panel and one line of the table a round-trip time."""
        contenders = [*self.ours.contenders(), *self.theirs.contenders()]
        jobs = [(replace(self.setup, rtt_ms=rtt), contender) for rtt in self.rtts for contender in contenders]
        first, *rest = run_jobs([(self.setup, BASELINE), *jobs], processes=self.processes, progress=self.progress)
        found = [compare(measured, first) for measured in rest]
        panels, lines, rows = [], list[tuple[str, ...]](), list[dict[str, Any]]()
        count = len(self.ours.values)
        for place, rtt in enumerate(self.rtts):
            here = found[place * len(contenders) : (place + 1) * len(contenders)]
            mine, other = _places(self.ours, here[:count]), _places(self.theirs, here[count:])
            panels.append(self._panel(rtt, here))
            ahead = lead(mine, other)
            lines.append(_line(rtt, ahead))
            rows += [_plain(rtt, self.ours, each) for each in mine] + [_plain(rtt, self.theirs, each) for each in other]
            rows.append({"rtt_ms": rtt, "beyond": ahead.beyond, "passes": ahead.passes, "latency": ahead.latency})
        header = ("RTT ms", "fewer passes at no more latency", "less latency at no more passes", "beyond everywhere")
        return Figure(
            "pareto",
            f"{self.ours.title} against {self.theirs.title}",
            "local draft passes, share of local's with k = 2",
            f"Differences are shares of local's: least and most over the front of {self.theirs.policy}. {self.words}",
            tuple(panels),
            tables=(Table(f"{self.ours.policy} against {self.theirs.policy}", header, tuple(lines)),),
            rows=tuple(rows),
        )

    def _panel(self, rtt: float, here: Sequence[Comparison]) -> Panel:
        count = len(self.ours.values)
        curves = []
        for knob, mine in ((self.ours, here[:count]), (self.theirs, here[count:])):
            points = [Point(found.draft_passes_ratio.value, found.latency_ratio) for found in mine]
            curves.append(Curve(knob.title, tuple(points)))
        return Panel(f"{LATENCY}, RTT {rtt:g} ms", tuple(curves))


def _places(knob: Knob, found: Sequence[Comparison]) -> list[Place]:
    return [
        Place(value, each.latency_ratio.value, each.draft_passes_ratio.value)
        for value, each in zip(knob.values, found, strict=True)
    ]


def _most(differences: Sequence[float]) -> float | None:
    return max(differences, default=None)


def _range(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if len(known) == len(values) else None


def _line(rtt: float, ahead: Lead) -> tuple[str, ...]:
    def words(span: tuple[float, float] | None, form: str) -> str:
        return "not everywhere" if span is None else f"{span[0]:{form}} to {span[1]:{form}}"

    return f"{rtt:g}", words(ahead.passes, ".0%"), words(ahead.latency, ".3f"), "yes" if ahead.beyond else "**no**"


def _plain(rtt: float, knob: Knob, place: Place) -> dict[str, Any]:
    return {
        "rtt_ms": rtt,
        "policy": knob.policy,
        knob.parameter: place.value,
        "latency_ratio": round(place.latency, 4),
        "draft_passes_ratio": round(place.passes, 4),
    }
