"""Readings of an endpoint's state, and what happened between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

State: TypeAlias = Mapping[str, Any]

_SAMPLES = 60


@dataclass(frozen=True, slots=True)
class Figures:
    """What was done, in all or within some seconds.

    Attributes:
        seconds: how long; None for since the endpoint began.
        tokens, rounds: of all answers.
        local_passes: of the local draft.
        saved: drafts of the worker that were verified: each is a pass that the local draft did not run.
        saved_ms: what those would have taken of the scarce GPU, at the local draft's usual pace; None if not known.
        accepted: shares of verified drafts, by who made them; None where there were none.
        worker_passes, worker_used: passes of the worker; the share of which something became text.
        gpu_ms: of the engines in the scarce region.
        waited_ms: of all requests, for the worker.
    """

    seconds: float | None
    tokens: int
    rounds: int
    local_passes: int
    saved: int
    saved_ms: float | None
    accepted: Mapping[str, float | None]
    worker_passes: int
    worker_used: float | None
    gpu_ms: float
    waited_ms: float

    @property
    def tokens_per_s(self) -> float | None:
        """None without a span of time."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def saved_share(self) -> float | None:
        """Of the draft passes that the scarce region would have run."""
        return _share(self.saved, self.saved + self.local_passes)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "tokens": self.tokens,
            "tokens_per_s": _plain(self.tokens_per_s),
            "rounds": self.rounds,
            "tokens_per_round": _plain(_share(self.tokens, self.rounds)),
            "accepted": {name: _plain(value) for name, value in self.accepted.items()},
            "local_draft_passes": self.local_passes,
            "draft_passes_saved": self.saved,
            "draft_passes_saved_share": _plain(self.saved_share),
            "gpu_ms_saved": _plain(self.saved_ms),
            "worker_passes": self.worker_passes,
            "worker_passes_used": _plain(self.worker_used),
            "gpu_ms": _plain(self.gpu_ms),
            "waited_ms": _plain(self.waited_ms),
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading.

    Attributes:
        at: when.
        state: of the endpoint, as ``wanspec control --json`` gives it; the last one known if it did not answer.
        problem: why it did not; empty if it did.
        total, last: since the endpoint began, and over the last seconds; None where that is not known.
        rates: tokens a second between readings, the newest last.
    """

    at: datetime
    state: State | None = None
    problem: str = ""
    total: Figures | None = None
    last: Figures | None = None
    rates: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; an endpoint that did not answer has no state."""
        time = self.at.astimezone().isoformat(timespec="milliseconds")
        if self.problem or self.state is None:
            return {"time": time, "error": self.problem}
        return {
            "time": time,
            "total": None if self.total is None else self.total.as_dict(),
            "last": None if self.last is None else self.last.as_dict(),
            "state": dict(self.state),
        }


@dataclass(slots=True)
class History:
    """The readings of some seconds, which rates are made of.

    Attributes:
        window: s.
    """

    window: float
    _taken: deque[tuple[float, State]] = field(default_factory=deque)
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def add(self, now: float, at: datetime, state: State) -> Reading:
        """Take a state that was read at ``now``, s."""
        if self._taken and state["totals"]["rounds"] < self._taken[-1][1]["totals"]["rounds"]:
            self._taken.clear()  # it began anew
        if self._taken:
            before, last = self._taken[-1]
            self._rates.append((state["totals"]["tokens"] - last["totals"]["tokens"]) / max(1e-3, now - before))
        self._taken.append((now, state))
        while len(self._taken) > 2 and self._taken[1][0] <= now - self.window:
            self._taken.popleft()
        since, earlier = self._taken[0]
        last_figures = _figures(state, earlier["totals"], now - since) if len(self._taken) > 1 else None
        return Reading(at, state, "", _figures(state, {}, None), last_figures, tuple(self._rates))

    def failed(self, at: datetime, problem: str) -> Reading:
        """Take that there was no answer."""
        state = self._taken[-1][1] if self._taken else None
        return Reading(at, state, problem)


def _figures(state: State, before: Mapping[str, Any], seconds: float | None) -> Figures:
    totals = state["totals"]

    def more(name: str) -> Any:
        return totals[name] - before.get(name, 0)

    draft_ms, saved = state["step_ms"]["draft"], more("drafted_remote")
    return Figures(
        seconds,
        more("tokens"),
        more("rounds"),
        more("local_draft_passes"),
        saved,
        None if draft_ms is None else draft_ms * saved,
        {who: _share(more(f"accepted_{who}"), more(f"drafted_{who}")) for who in ("remote", "local")},
        more("remote_draft_passes"),
        _share(more("remote_passes_used"), more("remote_draft_passes")),
        more("target_ms") + more("local_draft_ms"),
        more("waited_ms"),
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _plain(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
