"""The rows of a comparison: policies, the single-region policies that any gain is to be read against, and a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wanspec.core.policies import POLICIES
from wanspec.simulation.comparison import Comparison, compare, estimates_as_dict
from wanspec.simulation.experiment import run
from wanspec.simulation.oracle import bound
from wanspec.simulation.setup import Contender, Measured, Setup

BASELINE = Contender("local", {"k": 2})
BEST_LOCAL = "local, best k"
KS = (1, 2, 3, 4, 5, 6, 8)
ORACLE, FREE_ORACLE = "oracle", "oracle, free drafts"


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one round-trip time, against the baseline."""

    policy: str
    rtt_ms: float
    leaves: int
    found: Comparison
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: each estimate with its interval beside it."""
        row: dict[str, Any] = {"policy": self.policy, "rtt_ms": self.rtt_ms, "leaves": self.leaves}
        row |= estimates_as_dict(self.found)
        return row | ({"note": self.note} if self.note else {})


class Tables:
    """Makes rows for one kind of setup at several round-trip times; what does not depend on them is run once."""

    def __init__(
        self, setup: Setup, contenders: Sequence[Contender], processes: int, progress: Callable[[int], None] | None
    ) -> None:
        self._setup = setup
        self._contenders = [c for c in contenders if c != BASELINE and c.name not in (ORACLE, BASELINE.name)]
        self._processes = processes
        self.progress = progress
        self._local: dict[str, list[Measured]] = {}
        self._best_k = 0

    @property
    def _single(self) -> list[Contender]:
        found = [Contender("local", {"k": k}, f"local:k={k}") for k in KS]
        return found + ([Contender("local_adaptive")] if "local_adaptive" in POLICIES else [])

    def requests(self, rtts: int) -> int:
        """How many requests all of it takes."""
        return self._setup.requests * (len(self._single) + len(self._contenders) * rtts)

    def rows(self, rtt_ms: float) -> list[Row]:
        """Compare at one round-trip time.

        Raises:
            InvalidRequestError: a policy or one of its parameters is unknown.
            ConfigError: a deed is unknown.
        """
        if not self._local:
            self._run_local()
        setup = replace(self._setup, rtt_ms=rtt_ms)
        measured = run(setup, self._contenders, processes=self._processes, progress=self.progress)
        rows = [self._row(rtt_ms, BASELINE.name, self._local["local:k=2"])]
        rows.append(self._row(rtt_ms, BEST_LOCAL, self._local[f"local:k={self._best_k}"], f"k = {self._best_k}"))
        named = {contender.name for contender in self._contenders}
        if "local_adaptive" in self._local and "local_adaptive" not in named:
            rows.append(self._row(rtt_ms, "local_adaptive", self._local["local_adaptive"]))
        rows += [self._row(rtt_ms, name, results) for name, results in measured.items()]
        if setup.concurrent == 1 and setup.weather.path is None and not setup.jitter:  # else it would be no bound
            numbers = range(setup.requests)
            rows.append(self._row(rtt_ms, ORACLE, bound(setup, numbers)))
            rows.append(self._row(rtt_ms, FREE_ORACLE, bound(setup, numbers, free_drafts=True)))
        return rows

    def _run_local(self) -> None:
        self._local = run(self._setup, self._single, processes=self._processes, progress=self.progress)
        medians = {k: np.median([m.latency_ms for m in self._local[f"local:k={k}"]]) for k in KS}
        self._best_k = min(KS, key=lambda k: float(medians[k]))

    def _row(self, rtt_ms: float, name: str, results: list[Measured], note: str = "") -> Row:
        return Row(name, rtt_ms, self._setup.leaves, compare(results, self._local["local:k=2"]), note)
