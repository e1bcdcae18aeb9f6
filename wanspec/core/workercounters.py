"""What a worker counts."""

from __future__ import annotations

from dataclasses import dataclass


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
