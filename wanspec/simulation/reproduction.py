"""The paper's figures 7, 8 and 9 (arXiv 2602.18931), made anew with the code that serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wanspec.simulation.comparison import Comparison, Estimate, compare
from wanspec.simulation.experiment import run
from wanspec.simulation.figures import LATENCY, PASSES, Curve, Figure, Panel, Point, Stated
from wanspec.simulation.setup import Contender, Measured, Setup

NO_PHI = 0.0
"""Every bonus token counts as unforeseen: Algorithm 1 before the threshold is added."""
BASELINE = Contender("local", {"k": 2})

_Numbers = dict[str, float | int | str]

STEPS: tuple[tuple[str, _Numbers], ...] = (
    ("no branching", {"branching": 1, "theta": 0.0, "phi": NO_PHI}),
    ("+ b = 2", {"branching": 2, "theta": 0.0, "phi": NO_PHI}),
    ("+ theta", {"branching": 2, "theta": 0.5, "phi": NO_PHI}),
    ("+ phi", {"branching": 2, "theta": 0.5, "phi": 0.5}),
)
PAPER: _Numbers = {"k": 2, "width": 4, "floor": 0.0}
"""k as the paper has it; s it does not print; no floor."""

FIG7_RTTS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)
FIG8_RTTS = (10.0, 20.0, 30.0, 40.0, 60.0)
FIG9_RTTS = (10.0, 15.0, 70.0)
PHIS = tuple(round(float(phi), 4) for phi in np.linspace(0.0, 3.2, 100))
"""The estimate of the bonus token's entropy is never far above 3 nats."""

FIG7_LATENCY = (
    Stated("no branching", 10.0, 0.97, 1.0, "speed-up nearly gone at 10 ms"),
    Stated("+ b = 2", 20.0, 0.95, 1.0, "helps up to about 20 ms"),
    Stated("+ theta", 20.0, 0.90, 0.90, "10% faster at 20 ms"),
    Stated("+ phi", 40.0, 0.95, 1.05, "slow-downs at longer RTT stay under 5%"),
)
FIG7_PASSES = (
    Stated("no branching", 30.0, 1.0, 1.0, "fewer only at the lowest RTTs"),
    Stated("+ b = 2", 15.0, 0.0, 0.95, "fewer at 10-15 ms"),
    Stated("+ theta", 15.0, 0.0, 0.95, "fewer at 10-15 ms"),
    Stated("+ phi", 20.0, 0.5, 0.5, "50% fewer at 20 ms"),
    Stated("+ phi", 30.0, 0.7, 0.7, "30% fewer at 30 ms"),
)
FIG8_PASSES = (
    Stated("30 ms", 1.6, 0.0, 0.7, "over 30% fewer up to 30 ms"),
    Stated("40 ms", 1.6, 0.8, 0.8, "20% fewer at 40 ms"),
)
FIG8_LATENCY = (Stated("30 ms", 1.6, 0.90, 1.05, "latency mostly within 5%"),)
FIG9_LATENCY = (
    Stated("wanspec, b = 1", 10.0, 0.93, 1.0, "slightly lower total time"),
    Stated("wanspec, b = 1", 15.0, 0.93, 1.0, "slightly lower total time"),
    Stated("wanspec, b = 1", 70.0, 1.0, 1.1, "some slow-down at 70 ms"),
)
FIG9_PASSES = (
    Stated("wanspec, b = 1", 10.0, 0.5, 0.5, "half of the draft steps offloaded on the same coast"),
    Stated("wanspec, b = 1", 15.0, 0.5, 0.5, "half of the draft steps offloaded on the same coast"),
    Stated("wanspec, b = 1", 70.0, 0.85, 1.0, "little benefit at 70 ms"),
)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """How the figures are made.

    Attributes:
        setup: source, timing, requests; round-trip times are each figure's own.
        conditions: the same in words.
        processes: how many to use.
        progress: told of requests that are done.
    """

    setup: Setup
    conditions: str
    processes: int = 1
    progress: Callable[[int], None] | None = None

    def fig7(self) -> Figure:
        """The ablation over round-trip times."""
        contenders = [Contender("wanspec", PAPER | step, name) for name, step in STEPS]
        found = self._compared(contenders, FIG7_RTTS)
        names = [name for name, _ in STEPS]
        return Figure(
            "fig7",
            "what each part of the paper's policy adds, over round-trip times",
            "RTT in ms",
            f"k = 2, s = 4, no floor. {self.conditions}",
            (
                Panel(LATENCY, tuple(_over_rtt(found, n, _latency) for n in names), FIG7_LATENCY),
                Panel(PASSES, tuple(_over_rtt(found, n, _passes) for n in names), FIG7_PASSES),
            ),
        )

    def fig8(self) -> Figure:
        """The sweep of phi at several round-trip times."""
        full = PAPER | STEPS[-1][1]
        contenders = [Contender("wanspec", full | {"phi": phi}, f"{phi:.4f}") for phi in PHIS]
        found = self._compared(contenders, FIG8_RTTS)
        panels = []
        for quantity, take, stated in ((LATENCY, _latency, FIG8_LATENCY), (PASSES, _passes, FIG8_PASSES)):
            curves = tuple(
                Curve(f"{rtt:g} ms", tuple(Point(phi, take(found[rtt][f"{phi:.4f}"])) for phi in PHIS))
                for rtt in FIG8_RTTS
            )
            panels.append(Panel(quantity, curves, stated))
        return Figure(
            "fig8",
            f"{len(PHIS)} values of phi",
            "phi in nats",
            f"k = 2, b = 2, theta = 0.5, s = 4, no floor. {self.conditions}",
            tuple(panels),
        )

    def fig9(self) -> Figure:
        """The cloud deployment, in which the tree never ran."""
        chain = PAPER | {"branching": 1, "theta": 0.0, "phi": 0.5}
        tree = PAPER | {"branching": 2, "theta": 0.5, "phi": 0.5}
        contenders = [Contender("wanspec", chain, "wanspec, b = 1"), Contender("wanspec", tree, "wanspec, b = 2")]
        found = self._compared(contenders, FIG9_RTTS)
        names = [contender.name for contender in contenders]
        return Figure(
            "fig9",
            "the cloud deployment's round trips",
            "RTT in ms",
            f"k = 2, phi = 0.5. {self.conditions}",
            (
                Panel(LATENCY, tuple(_over_rtt(found, n, _latency) for n in names), FIG9_LATENCY),
                Panel(PASSES, tuple(_over_rtt(found, n, _passes) for n in names), FIG9_PASSES),
            ),
        )

    def _compared(self, contenders: Sequence[Contender], rtts: Sequence[float]) -> dict[float, dict[str, Comparison]]:
        baseline = self._run([BASELINE], 0.0)["local"]
        found = {}
        for rtt in rtts:
            results = self._run(contenders, rtt)
            found[rtt] = {name: compare(results[name], baseline) for name in results}
        return found

    def _run(self, contenders: Sequence[Contender], rtt: float) -> dict[str, list[Measured]]:
        return run(replace(self.setup, rtt_ms=rtt), contenders, processes=self.processes, progress=self.progress)


def requests_of(name: str, requests: int) -> int:
    """How many requests a figure simulates if each of its points takes ``requests``."""
    points = {
        "fig7": len(FIG7_RTTS) * len(STEPS),
        "fig8": len(FIG8_RTTS) * len(PHIS),
        "fig9": len(FIG9_RTTS) * 2,
    }
    return (points[name] + 1) * requests


def _over_rtt(found: dict[float, dict[str, Comparison]], name: str, take: Callable[[Comparison], Estimate]) -> Curve:
    return Curve(name, tuple(Point(rtt, take(rows[name])) for rtt, rows in found.items()))


def _latency(comparison: Comparison) -> Estimate:
    return comparison.latency_ratio


def _passes(comparison: Comparison) -> Estimate:
    return comparison.draft_passes_ratio
