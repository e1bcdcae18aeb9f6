"""What ``adaptive`` gains, under the conditions that any claim about it is to be held against, beside its aims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wanspec.simulation.catalogue import source_setup
from wanspec.simulation.comparison import Comparison, Estimate
from wanspec.simulation.figures import AIMS, LATENCY, PASSES, Curve, Figure, Panel, Point, Stated, Table
from wanspec.simulation.gpu import Costs
from wanspec.simulation.setup import Contender, Setup
from wanspec.simulation.table import ORACLE, Row, Tables

SCARCE = "scarce GPU's time a token against standard speculative decoding"
RTTS = (20.0, 30.0, 50.0, 70.0, 100.0, 150.0)
ADAPTIVE = Contender("adaptive")
CONTENDERS = (ADAPTIVE, Contender("wanspec"))


@dataclass(frozen=True, slots=True)
class Aim:
    """What the three figures of a row should reach together."""

    latency: float
    saved: float
    scarce: float

    def missed(self, found: Comparison) -> list[str]:
        """Which of the three a row does not reach."""
        checks = (
            ("latency", found.latency_ratio.value <= self.latency),
            ("passes", found.draft_passes_saved.value >= self.saved),
            ("GPU", found.scarce_gpu_ratio.value <= self.scarce),
        )
        return [name for name, met in checks if not met]

    def __str__(self) -> str:
        return f"{self.latency:.2f} / {self.saved:.0%} / {self.scarce:.2f}"


Aims = Mapping[float, Aim]

WANTED_16: Aims = {
    20.0: Aim(0.70, 0.92, 0.69),
    30.0: Aim(0.74, 0.88, 0.73),
    50.0: Aim(0.82, 0.80, 0.81),
    70.0: Aim(0.89, 0.70, 0.87),
    100.0: Aim(0.96, 0.55, 0.95),
    150.0: Aim(1.01, 0.45, 1.00),
}
WANTED_64: Aims = {
    20.0: Aim(0.65, 0.95, 0.64),
    30.0: Aim(0.70, 0.92, 0.69),
    50.0: Aim(0.77, 0.85, 0.76),
    70.0: Aim(0.83, 0.75, 0.82),
    100.0: Aim(0.91, 0.62, 0.90),
    150.0: Aim(0.99, 0.50, 0.98),
}
BEYOND: Aims = {30.0: Aim(0.65, 0.97, 0.63), 100.0: Aim(0.85, 0.85, 0.84)}
"""What to go on to once the first aims are met."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One table: a setup and what is aimed at in it."""

    name: str
    setup: Setup
    wanted: Aims = field(default_factory=dict)
    beyond: Aims = field(default_factory=dict)


def conditions(costs: Costs, requests: int, tokens: int, seed: int, traces: Sequence[Path] = ()) -> list[Condition]:
    """The reference source at 16, 64 and 1 leaves and at three times the pass cost, the coupled one, and traces.

    Raises:
        ConfigError: a trace cannot be read.
    """

    def setup(source: str, leaves: int = 16, costs: Costs = costs) -> Setup:
        return source_setup(source, seed, costs=costs, leaves=leaves, requests=requests, tokens=tokens)

    slow = replace(costs, pass_ms=3 * costs.pass_ms)
    return [
        Condition("16 leaves", setup("reference"), WANTED_16, BEYOND),
        Condition("64 leaves", setup("reference", 64), WANTED_64),
        Condition("1 leaf", setup("reference", 1)),
        Condition("16 leaves, passes cost 3 times as much", setup("reference", costs=slow)),
        Condition("16 leaves, coupled sampling at T = 1", setup("coupled")),
        *(Condition(f"16 leaves, trace {path.name.partition('.')[0]}", setup(f"trace:{path}")) for path in traces),
    ]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the tables are made.

    Attributes:
        conditions: one table each.
        words: what they share, in a sentence.
        rtts: round-trip times, ms.
        contenders: the first is the one that is drawn and held against the aims.
        processes: how many to use.
        progress: told of requests that are done.
    """

    conditions: Sequence[Condition]
    words: str = ""
    rtts: tuple[float, ...] = RTTS
    contenders: tuple[Contender, ...] = CONTENDERS
    processes: int = 1
    progress: Callable[[int], None] | None = None

    @property
    def requests(self) -> int:
        """How many requests :meth:`figure` simulates."""
        return sum(self._tables(condition).requests(len(self.rtts)) for condition in self.conditions)

    def figure(self) -> Figure:
        """Make tables and curves."""
        name = self.contenders[0].name
        found = {condition.name: self._rows(condition) for condition in self.conditions}
        ours = {place: [row for row in rows if row.policy == name] for place, rows in found.items()}
        return Figure(
            "adaptive",
            f"what {name} gains, over round-trip times",
            "RTT in ms",
            f"Medians over requests against local with k = 2, 90% intervals. {self.words}",
            (
                Panel(LATENCY, _curves(ours, lambda c: c.latency_ratio), self._stated(lambda a: a.latency)),
                Panel(PASSES, _curves(ours, lambda c: c.draft_passes_ratio), self._stated(lambda a: 1.0 - a.saved)),
                Panel(SCARCE, _curves(ours, lambda c: c.scarce_gpu_ratio), self._stated(lambda a: a.scarce)),
            ),
            tables=tuple(_table(condition, found[condition.name], name) for condition in self.conditions),
            rows=tuple(_plain(condition, row, name) for condition in self.conditions for row in found[condition.name]),
            yardstick=AIMS,
        )

    def _tables(self, condition: Condition) -> Tables:
        return Tables(condition.setup, self.contenders, self.processes, self.progress)

    def _rows(self, condition: Condition) -> list[Row]:
        tables = self._tables(condition)
        return [row for rtt in self.rtts for row in tables.rows(rtt)]

    def _stated(self, take: Callable[[Aim], float]) -> tuple[Stated, ...]:
        return tuple(
            Stated(condition.name, rtt, 0.0, round(take(aim), 4), "at most")
            for condition in self.conditions
            for rtt, aim in condition.wanted.items()
            if rtt in self.rtts
        )


def _curves(rows: Mapping[str, list[Row]], take: Callable[[Comparison], Estimate]) -> tuple[Curve, ...]:
    return tuple(Curve(name, tuple(Point(row.rtt_ms, take(row.found)) for row in mine)) for name, mine in rows.items())


def _table(condition: Condition, rows: Sequence[Row], name: str) -> Table:
    header = (
        "RTT ms", "policy", "latency", "passes saved", "scarce GPU", "of the possible gain", "wanted", "", "aim", "",
    )  # fmt: skip
    bounds = {row.rtt_ms: row.found.latency_ratio.value for row in rows if row.policy == ORACLE}
    shown = []
    for row in rows:
        found, goals = row.found, ("", "", "", "")
        if row.policy == name:
            goals = (*_goal(condition.wanted, row), *_goal(condition.beyond, row))
        possible = 1.0 - bounds.get(row.rtt_ms, 1.0)
        share = f"{(1.0 - found.latency_ratio.value) / possible:.0%}" if possible > 0.0 else ""
        shown.append(
            (
                f"{row.rtt_ms:g}",
                f"{row.policy} {row.note}".strip(),
                _span(found.latency_ratio, ".3f"),
                _span(found.draft_passes_saved, ".0%"),
                _span(found.scarce_gpu_ratio, ".3f"),
                share,
                *goals,
            )
        )
    return Table(condition.name, header, tuple(shown))


def _goal(aims: Aims, row: Row) -> tuple[str, str]:
    aim = aims.get(row.rtt_ms)
    if aim is None:
        return "", ""
    missed = aim.missed(row.found)
    return str(aim), f"missed: {', '.join(missed)}" if missed else "met"


def _plain(condition: Condition, row: Row, name: str) -> dict[str, Any]:
    plain = {"condition": condition.name} | row.as_dict()
    if row.policy == name:
        for kind, aims in (("wanted", condition.wanted), ("beyond", condition.beyond)):
            if row.rtt_ms in aims:
                plain[kind], plain[f"{kind}_missed"] = str(aims[row.rtt_ms]), aims[row.rtt_ms].missed(row.found)
    return plain


def _span(estimate: Estimate, form: str) -> str:
    if estimate.low == estimate.high:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"
