"""Figures as data: curves over an axis, tables, and what the paper states, or what was aimed at, beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wanspec.simulation.comparison import Estimate

LATENCY = "latency against standard speculative decoding"
PASSES = "draft passes in the scarce region against standard speculative decoding"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a curve: its place on the axis, and the estimate."""

    x: float
    y: Estimate


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """Whose values stand beside ours, and how a comparison is worded.

    Attributes:
        says: heading of the values.
        legend: what precedes a curve's name where they are drawn.
        yes, no: where ours lies in the stated range, and where not.
        tolerance: how far outside the range a value still counts.
    """

    says: str
    legend: str
    yes: str
    no: str
    tolerance: float


PAPER = Yardstick("the paper says", "the paper on", "agrees", "differs", 0.05)
"""The paper gives round numbers."""
AIMS = Yardstick("aim", "wanted of", "met", "missed", 0.0)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are shown."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Stated:
    """A value that ours is compared with, as its words have it.

    Attributes:
        curve: which of ours it is to be compared with.
        x: place on the axis.
        low, high: the range that the words allow; equal where they name one value.
        words: what is said, in short.
    """

    curve: str
    x: float
    low: float
    high: float
    words: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves of one quantity.

    Attributes:
        quantity: what the vertical axis is.
        curves: the lines.
        stated: what the paper says.
        steps: the curves are steps, as of a distribution function, and not lines between their points.
        level: where a dotted line is drawn across; None for shares of a whole, shown from 0 to 1.
    """

    quantity: str
    curves: tuple[Curve, ...]
    stated: tuple[Stated, ...] = ()
    steps: bool = False
    level: float | None = 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """What is shown together, such as one figure of the paper, made anew.

    Attributes:
        name: the paper's (fig7, fig8, fig9), or another.
        title: what is shown.
        axis: label of the horizontal axis.
        conditions: how it was made, in a sentence.
        panels: what is drawn side by side.
        names: of curves, in the order of their colours, for one legend of all panels; empty for one in each.
        tables: shown instead of the curves' own, where there are any.
        rows: what the tables show, as plain values.
        yardstick: whose the stated values are.
    """

    name: str
    title: str
    axis: str
    conditions: str
    panels: tuple[Panel, ...]
    names: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    yardstick: Yardstick = PAPER

    def colour(self, name: str) -> int:
        """A curve's place among the colours: the same in every panel."""
        drawn = (curve.name for panel in self.panels for curve in panel.curves)
        return list(dict.fromkeys((*self.names, *drawn))).index(name)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A stated value beside ours."""

    panel: str
    stated: Stated
    ours: Estimate
    agrees: bool


def agreements(figure: Figure) -> list[Agreement]:
    """Compare what is stated with the curves, which have a point at each stated place."""
    found, tolerance = [], figure.yardstick.tolerance
    for panel in figure.panels:
        curves = {curve.name: curve for curve in panel.curves}
        for stated in panel.stated:
            ours = _nearest(curves[stated.curve].points, stated.x).y
            agrees = stated.low - tolerance <= ours.value <= stated.high + tolerance
            found.append(Agreement(panel.quantity, stated, ours, agrees))
    return found


def markdown(figure: Figure) -> str:
    """Write a figure as Markdown: its tables, or else one a panel, and the statements with ours."""
    lines = [f"## {figure.name}: {figure.title}", "", figure.conditions, ""]
    for table in figure.tables:
        lines += [f"**{table.title}**", "", *_table(table), ""]
    for panel in () if figure.tables else figure.panels:
        lines += [f"**{panel.quantity[0].upper()}{panel.quantity[1:]}** (median, 90% interval)", ""]
        lines += _curves(figure.axis, panel.curves)
    if any(panel.stated for panel in figure.panels):
        lines += [f"| {figure.yardstick.says} | curve | at | stated | ours | |", "|---|---|---|---|---|---|"]
        for each in agreements(figure):
            stated, words = each.stated, figure.yardstick.yes if each.agrees else f"**{figure.yardstick.no}**"
            span = f"{stated.low:.2f}" if stated.low == stated.high else f"{stated.low:.2f} to {stated.high:.2f}"
            lines.append(
                f"| {stated.words} | {stated.curve} | {stated.x:g} | {span} | {each.ours.value:.2f} | {words} |"
            )
        lines.append("")
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _curves(axis: str, curves: Sequence[Curve]) -> list[str]:
    places = sorted({point.x for curve in curves for point in curve.points})
    if len(places) > 20:  # a sweep: a table of every tenth value says as much
        places = places[:: len(places) // 10]
    lines = [f"| {axis} | " + " | ".join(curve.name for curve in curves) + " |"]
    lines.append("|---" * (len(curves) + 1) + "|")
    for place in places:
        cells = []
        for curve in curves:
            here = next((point.y for point in curve.points if point.x == place), None)
            cells.append("" if here is None else f"{here.value:.3f} ({here.low:.3f} to {here.high:.3f})")
        lines.append(f"| {place:.3g} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _nearest(points: Sequence[Point], x: float) -> Point:
    return min(points, key=lambda point: abs(point.x - x))
