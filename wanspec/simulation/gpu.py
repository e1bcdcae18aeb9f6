"""What engine passes cost, and the scarce region's GPU that target and local draft share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from wanspec.core.costs import CostModel, CostTable, flat_costs


@dataclass(frozen=True, slots=True)
class Costs:
    """Engine step times in ms.

    Attributes:
        target_ms: verifying a token.
        target_token_ms: each further token of the same verification.
        draft_ms: one local draft step.
        pass_ms: one worker pass over one leaf.
        leaf_ms: each further leaf of the same pass.
        target, draft, worker: measured costs, used instead of the above where given.
    """

    target_ms: float = 23.4
    target_token_ms: float = 0.0
    draft_ms: float = 7.5
    pass_ms: float = 7.5
    leaf_ms: float = 0.0
    target: CostModel | None = None
    draft: CostModel | None = None
    worker: CostModel | None = None

    def verify_model(self) -> CostModel:
        """What the controller is told of the target."""
        return self.target or _linear(self.target_ms, self.target_token_ms)

    def draft_model(self) -> CostModel:
        """What the controller is told of the local draft."""
        return self.draft or _linear(self.draft_ms, 0.0)

    def worker_model(self) -> CostModel:
        """What the worker is told of its engine."""
        return self.worker or _linear(self.pass_ms, self.leaf_ms)

    def verify_ms(self, drafts: int, context: float) -> float:
        """Duration of a verification of ``drafts`` tokens after ``context`` cached ones."""
        if self.target is not None:
            return self.target.verify_ms(drafts, context)
        return self.target_ms + self.target_token_ms * drafts

    def local_ms(self, count: int, context: float) -> float:
        """Duration of ``count`` local draft steps."""
        if self.draft is not None:
            return sum(self.draft.pass_ms(1, 1, context + step) for step in range(count))
        return self.draft_ms * count

    def expand_ms(self, leaves: int, context: float) -> float:
        """Duration of a worker pass over ``leaves`` leaves that attend to ``context`` cached tokens each."""
        if self.worker is not None:
            return self.worker.pass_ms(leaves, leaves, context)
        return self.pass_ms + self.leaf_ms * (leaves - 1)


@lru_cache(maxsize=64)
def _linear(first_ms: float, further_ms: float) -> CostModel:
    if not further_ms:
        return flat_costs(first_ms)
    table = CostTable((1, 2), (0,), ((first_ms,), (first_ms + further_ms,)))
    return CostModel(table, table)


@dataclass(slots=True)
class Job:
    """One engine call.

    Attributes:
        sequence: whose it is.
        draft: of the local draft, else of the target.
        duration_ms: if it ran alone.
        done: told how long the engine took.
    """

    sequence: int
    draft: bool
    duration_ms: float
    done: Callable[[float], None]


class ScarceGpu:
    """One GPU for target and local draft: one pass at a time, of one of the two models, over all sequences waiting.

    A batch takes as long as its longest member: on a GPU at low batch a step costs the same for a few sequences.
    """

    def __init__(self, at: Callable[[float, Callable[[], None]], None], clock: Callable[[], float], batch: int) -> None:
        """``batch``: most calls in one pass; 0 runs every call on its own at once, as if each had a GPU."""
        self.busy_ms = 0.0
        self.shares: Counter[int] = Counter()
        self._at = at
        self._clock = clock
        self._batch = batch
        self._waiting: list[Job] = []
        self._busy = False

    def run(self, job: Job) -> None:
        """Run a call, now or when the GPU is free."""
        if not self._batch:
            self._start([job])
            return
        self._waiting.append(job)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._waiting:
            return
        kind = self._waiting[0].draft
        batch = [job for job in self._waiting if job.draft is kind][: self._batch]
        self._waiting = [job for job in self._waiting if job not in batch]
        self._start(batch)

    def _start(self, batch: list[Job]) -> None:
        duration = max(job.duration_ms for job in batch)
        self.busy_ms += duration
        for job in batch:
            self.shares[job.sequence] += duration / len(batch)  # type: ignore[assignment]
        self._at(self._clock() + duration, lambda: self._finish(batch, duration))

    def _finish(self, batch: list[Job], duration: float) -> None:
        for job in batch:
            job.done(duration)
        if self._batch:
            self._next()
