"""What a worker counts, and what it remembers of sequences that are traced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MOST_PASSES = 4096
"""Of one sequence, that are remembered."""


@dataclass(slots=True)
class WorkerCounters:
    """Totals since the worker started."""

    passes: int = 0
    leaves: int = 0
    pass_ms: float = 0.0
    nodes: int = 0
    wasted_leaves: int = 0
    failed_passes: int = 0
    malformed: int = 0
    foreign: int = 0
    duplicates: int = 0
    desyncs: int = 0
    gaps: int = 0
    refused: int = 0


class PassRecord(NamedTuple):
    """One draft pass as one sequence saw it. ms on the worker's clock.

    ``queue_ms`` is what the pass took beyond the engine's own time. ``nodes`` went to the controller. ``number`` is the
    pass's, which it has in all its sequences, and ``batch`` its leaves of all of them.
    """

    began_ms: float
    ended_ms: float
    engine_ms: float
    queue_ms: float
    leaves: int
    nodes: int
    number: int = 0
    batch: int = 0


@dataclass(slots=True)
class SequenceRecord:
    """What a worker did for one sequence of a controller, in one epoch. ms on the worker's clock.

    Attributes:
        traceparent: W3C trace context of the controller.
        passes: the first :data:`MOST_PASSES` of them.
        ended: why it ended; empty while it has not.
    """

    number: int
    epoch: int
    traceparent: str
    opened_ms: float
    ended_ms: float = 0.0
    ended: str = ""
    prompt_tokens: int = 0
    prefilled: int = 0
    passes: list[PassRecord] = field(default_factory=list)

    def add(self, record: PassRecord) -> None:
        """Keep a pass."""
        if len(self.passes) < MOST_PASSES:
            self.passes.append(record)
