"""The leaves of one pass, each a request of the executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from wanspec.core.drafting import SequenceLeaves

MOST_LEAVES = 1 << 20
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf. ``number``: names it to the post-processor; of all passes."""

    number: int
    row: int
    sequence: SequenceLeaves
    path: tuple[int, ...]

    @property
    def tokens(self) -> list[int]:
        """Everything before the child that is asked for."""
        return [*self.sequence.prefix[: self.sequence.length], *self.path]

    @property
    def useless(self) -> bool:
        """Whether what was committed since leads elsewhere, or beyond."""
        if not self.path:  # the root; or a part of a prompt, whose rest is there already
            return False
        committed = tuple(self.sequence.prefix[self.sequence.length :])
        return committed != self.path[: len(committed)]


class Leaves:
    """The leaves of a pass, and which still wait for their answer, by the executor's request ids."""

    def __init__(self, batch: Sequence[SequenceLeaves], number: int) -> None:
        """``number``: of the pass."""
        places = ((sequence, path) for sequence in batch for path in sequence.leaves)
        self.all = [Leaf(number * MOST_LEAVES + row, row, *place) for row, place in enumerate(places)]
        self.pending: dict[int, Leaf] = {}
        self.done: set[int] = set()  # rows whose answer has come
        self._began: timedelta | None = None
        self._ended: timedelta | None = None

    def enqueued(self, ids: Sequence[int]) -> None:
        """The executor has taken all, by these ids."""
        self.pending = dict(zip(ids, self.all, strict=True))

    def answered(self, request_id: int, result: Any) -> None:
        """A leaf's answer has come."""
        self.done.add(self.pending.pop(request_id).row)
        metrics = result.request_perf_metrics
        if metrics is not None:
            began, ended = metrics.timing_metrics.first_scheduled_time, metrics.timing_metrics.last_token_time
            self._began = began if self._began is None else min(self._began, began)
            self._ended = ended if self._ended is None else max(self._ended, ended)

    def drop_useless(self) -> list[int]:
        """No longer wait for the leaves that a commit has made useless; return their ids."""
        dropped = [request_id for request_id, leaf in self.pending.items() if leaf.useless]
        for request_id in dropped:
            del self.pending[request_id]
        return dropped

    def engine_ms(self, waited_ms: float) -> float:
        """From the first leaf's begin to the last one's token, by the executor's clock; what was waited else."""
        if self._began is None or self._ended is None or self._ended < self._began:
            return waited_ms
        return (self._ended - self._began) / _MS
