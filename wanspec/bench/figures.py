"""A benchmark's figures: distributions as in the paper's figure 9, ratios against the round trip, acceptance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import sqrt

from wanspec.bench.native import NATIVE
from wanspec.bench.results import Results, Sample
from wanspec.bench.rows import Row, acceptance_counts, as_measured, unscaled
from wanspec.simulation.comparison import Estimate
from wanspec.simulation.figures import Curve, Figure, Panel, Point
from wanspec.simulation.setup import Measured

FEWEST_DRAFTS = 5
"""Places in the chain with fewer verified drafts are not drawn."""
_Z = 1.645


def make_figures(results: Results, rows: Sequence[Row], conditions: str) -> list[Figure]:
    """Make all figures; ``conditions`` says in a sentence how it was measured."""
    places = sorted({(row.rtt_ms, row.concurrency) for row in rows})
    names = list(dict.fromkeys(row.policy for row in rows))
    answers = _Answers(results, names)
    made = [
        Figure(
            "latency",
            "how long answers take",
            "latency of an answer, ms",
            conditions,
            tuple(_panel(place, "share of answers", answers.latencies(place), places) for place in places),
        ),
        Figure(
            "draft passes",
            "draft passes in the scarce region",
            "draft passes against local, same prompt",
            conditions,
            tuple(_panel(place, "share of answers", answers.draft_passes(place), places) for place in places),
        ),
        Figure("round trips", "against local, by the round trip", "RTT, ms", conditions, tuple(_ratios(rows, names))),
    ]
    if len({row.concurrency for row in rows}) > 1:
        made.append(
            Figure("capacity", "by sequences at once", "sequences at once", conditions, tuple(_loads(rows, names)))
        )
    panels = tuple(answers.acceptance())
    if panels:
        made.append(
            Figure("acceptance", "drafts accepted, by place", "place in the verified chain", conditions, panels)
        )
    return [replace(figure, names=tuple(names)) for figure in made]


class _Answers:
    """The samples, by place and policy."""

    def __init__(self, results: Results, names: Sequence[str]) -> None:
        self._names = names
        self._baseline = results.conditions.baseline
        scale = results.conditions.time_scale
        self._samples = results.samples
        self._measured: dict[tuple[str, float, int], list[Measured]] = {}
        for each in results.samples:
            key = each.policy, each.rtt_ms, each.concurrency
            scaled = Sample(*key, each.prompt, each.category, unscaled(each.summary, scale), each.exact)
            self._measured.setdefault(key, []).append(as_measured(scaled))

    def latencies(self, place: tuple[float, int]) -> list[Curve]:
        """Distribution functions."""
        return [_steps(name, [one.latency_ms for one in own]) for name, own, _ in self._at(place)]

    def draft_passes(self, place: tuple[float, int]) -> list[Curve]:
        """Distribution functions of the ratio to the baseline's, of policies that draft."""
        return [
            _steps(
                name,
                [o.draft_passes / b.draft_passes for o, b in zip(own, others, strict=True) if b.draft_passes],
            )
            for name, own, others in self._at(place)
            if name not in (NATIVE, "target_only", self._baseline)
        ]

    def acceptance(self) -> Iterable[Panel]:
        """A panel for drafts of the worker and one for those of the local draft, over all round trips."""
        counts = {
            name: acceptance_counts([sample for sample in self._samples if sample.policy == name])
            for name in self._names
        }
        for origin in ("remote", "local"):
            curves = [
                Curve(name, points) for name, found in counts.items() if (points := _shares(found.get(origin, [])))
            ]
            if curves:
                yield Panel(f"share of {origin} drafts accepted (90% interval)", tuple(curves), level=None)

    def _at(self, place: tuple[float, int]) -> Iterable[tuple[str, list[Measured], list[Measured]]]:
        others = self._measured[(self._baseline, *place)]
        for name in self._names:
            if (name, *place) in self._measured:
                yield name, self._measured[(name, *place)], others


def _panel(
    place: tuple[float, int], quantity: str, curves: Sequence[Curve], places: Sequence[tuple[float, int]]
) -> Panel:
    several = len({concurrency for _, concurrency in places}) > 1
    at_once = f", {place[1]} at once" if several else ""
    return Panel(f"{quantity}, RTT {place[0]:g} ms{at_once}", tuple(curves), steps=True, level=None)


def _ratios(rows: Sequence[Row], names: Sequence[str]) -> Iterable[Panel]:
    values: dict[str, Callable[[Row], Estimate]] = {
        "latency against local (median, 90% interval)": lambda row: row.found.latency_ratio,
        "scarce GPU time a token against local": lambda row: row.found.scarce_gpu_ratio,
    }
    for concurrency in sorted({row.concurrency for row in rows}):
        here = [row for row in rows if row.concurrency == concurrency and row.policy != NATIVE]
        at_once = f", {concurrency} at once" if concurrency > 1 else ""
        for quantity, value in values.items():
            yield Panel(
                quantity + at_once,
                tuple(
                    Curve(name, points)
                    for name in names
                    if (points := tuple(Point(row.rtt_ms, value(row)) for row in here if row.policy == name))
                ),
            )


def _loads(rows: Sequence[Row], names: Sequence[str]) -> Iterable[Panel]:
    values: dict[str, Callable[[Row], Estimate]] = {
        "tokens/s, all together": lambda row: row.load.together_tokens_per_s,
        "latency p95, ms": lambda row: row.speed.latency_p95_ms,
    }
    for rtt in sorted({row.rtt_ms for row in rows}):
        here = [row for row in rows if row.rtt_ms == rtt and row.policy != NATIVE]
        for quantity, value in values.items():
            yield Panel(
                f"{quantity}, RTT {rtt:g} ms",
                tuple(
                    Curve(name, points)
                    for name in names
                    if (points := tuple(Point(row.concurrency, value(row)) for row in here if row.policy == name))
                ),
                level=None,
            )


def _steps(name: str, values: Sequence[float]) -> Curve:
    """The share of values that are at most x, from 0 at the smallest."""
    ordered = sorted(values)
    points = [Point(x, _exactly((place + 1) / len(ordered))) for place, x in enumerate(ordered)]
    return Curve(name, (Point(ordered[0], _exactly(0.0)), *points) if points else ())


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def _shares(counts: Sequence[tuple[int, int]]) -> tuple[Point, ...]:
    """Accepted shares with Wilson's interval."""
    points = []
    for place, (some, right) in enumerate(counts):
        if some < FEWEST_DRAFTS:
            continue
        share = right / some
        middle = (share + _Z**2 / (2 * some)) / (1 + _Z**2 / some)
        half = _Z * sqrt(share * (1 - share) / some + _Z**2 / (4 * some**2)) / (1 + _Z**2 / some)
        points.append(Point(place + 1, Estimate(share, middle - half, middle + half)))
    return tuple(points)
