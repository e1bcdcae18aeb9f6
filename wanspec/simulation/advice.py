"""Whether to use a worker, from a simulation of one's own numbers: a verdict in words, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wanspec.simulation.comparison import Comparison, compare
from wanspec.simulation.experiment import run
from wanspec.simulation.setup import Contender, Measured, Setup

BASELINE = Contender("local", {"k": 2})
SLOWER = 1.02
"""A policy whose median latency is up to this counts as no slower."""
RTTS = (0.0, 10.0, 20.0, 30.0, 50.0, 70.0, 100.0, 150.0, 200.0, 300.0)


@dataclass(frozen=True, slots=True)
class Choice:
    """One policy at the given round-trip time. Bytes are of messages, per token, without gRPC and TCP framing."""

    contender: Contender
    found: Comparison
    against_best_local: Comparison
    bytes_up: float
    bytes_down: float

    @property
    def capacity(self) -> float:
        """Tokens of the scarce GPU against the baseline's: 1.3 means that it serves 30% more."""
        return 1.0 / self.found.scarce_gpu_ratio.value


@dataclass(frozen=True, slots=True)
class Advice:
    """A verdict.

    Attributes:
        enable: whether a worker is worth it.
        best: the policy to use; that of one region where it is not.
        choices: all that were tried, best first.
        stops_paying_ms: the shortest round trip tried at which the best policy with a worker no longer gains; None
            where it gains at all of them.
        best_k: of ``local``.
    """

    enable: bool
    best: Choice
    choices: tuple[Choice, ...]
    stops_paying_ms: float | None
    best_k: int

    def words(self, rtt_ms: float) -> str:
        """Say it in sentences."""
        name, found = self.best.contender.name, self.best.found
        if not self.enable:
            return (
                f"Do not use a worker at {rtt_ms:g} ms: no policy with one gains. Decode in one region with "
                f"policy local and k = {self.best_k}."
            )
        latency = found.latency_ratio.value
        speed = f"{1 - latency:.0%} less time" if latency < 1.0 else f"{latency - 1:.0%} more time"
        text = (
            f"Use a worker with policy {name}: an answer takes {speed} than with local, k = 2, "
            f"{found.draft_passes_saved.value:.0%} of the scarce region's draft passes go, and its GPU serves "
            f"{self.best.capacity - 1:.0%} more tokens."
        )
        if self.stops_paying_ms is None:
            return f"{text} It pays up to {RTTS[-1]:g} ms, the longest round trip tried."
        return f"{text} It stops paying at about {self.stops_paying_ms:g} ms."


def advise(
    setup: Setup,
    contenders: Sequence[Contender],
    *,
    ks: Sequence[int] = (1, 2, 3, 4, 6),
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Advice:
    """Try policies at a setup's round-trip time, and the best of them at others.

    Raises:
        InvalidRequestError: a policy or one of its parameters is unknown.
    """
    single = [Contender("local", {"k": k}, f"local, k = {k}") for k in ks]
    measured = run(setup, [BASELINE, *single, *contenders], processes=processes, progress=progress)
    baseline = measured[BASELINE.name]
    best_k = min(ks, key=lambda k: float(np.median([m.latency_ms for m in measured[f"local, k = {k}"]])))
    local = Contender("local", {"k": best_k}, f"local, k = {best_k}")
    honest = measured[local.name]
    choices = [_choice(c, measured[c.name], baseline, honest) for c in (local, *contenders)]
    choices.sort(key=_merit)
    remote = next((c for c in choices if c.contender is not local and _gains(c.against_best_local)), None)
    best = remote or next(c for c in choices if c.contender is local)
    stops = None if remote is None else _stops(setup, remote.contender, honest, processes, progress)
    return Advice(remote is not None, best, tuple(choices), stops, best_k)


def requests_of(setup: Setup, contenders: int, ks: int = 5) -> int:
    """How many requests :func:`advise` simulates at most."""
    return setup.requests * (1 + ks + contenders + len(RTTS))


def _choice(contender: Contender, measured: list[Measured], baseline: list[Measured], honest: list[Measured]) -> Choice:
    tokens = sum(m.tokens for m in measured)
    return Choice(
        contender,
        compare(measured, baseline),
        compare(measured, honest),
        sum(m.bytes_up for m in measured) / tokens,
        sum(m.bytes_down for m in measured) / tokens,
    )


def _merit(choice: Choice) -> float:
    """Time and scarce GPU weigh alike."""
    return choice.found.latency_ratio.value + choice.found.scarce_gpu_ratio.value


def _gains(comparison: Comparison) -> bool:
    """No slower than one region at its best, and less of the scarce GPU, or faster."""
    return comparison.latency_ratio.value <= SLOWER and (
        comparison.scarce_gpu_ratio.high < 1.0 or comparison.latency_ratio.high < 1.0
    )


def _stops(
    setup: Setup,
    contender: Contender,
    honest: list[Measured],
    processes: int,
    progress: Callable[[int], None] | None,
) -> float | None:
    for rtt in [rtt for rtt in RTTS if rtt > setup.rtt_ms]:
        found = run(replace(setup, rtt_ms=rtt), [contender], processes=processes, progress=progress)
        if not _gains(compare(found[contender.name], honest)):
            return rtt
    return None
