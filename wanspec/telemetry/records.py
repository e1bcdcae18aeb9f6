"""What is kept of a request until its spans are made."""

from __future__ import annotations

from dataclasses import dataclass

from wanspec.core.events import Finished, Request
from wanspec.telemetry.context import TraceContext


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request that has ended. Times in ms on the clock of ``time.monotonic``.

    Attributes:
        context: of its span.
        parent: what it is part of; None where nothing is, or that is not recorded.
        caller: where it is not recorded.
        sampled: why this is: ``head``, ``slow`` or ``failed``.
        model: the endpoint's name.
        target: the target's.
        arrived_ms, answered_ms: when the endpoint began to read it, and had handed over the last of the answer.
        offset_ns: what is added to that clock for the time since the epoch.
        finished: how it ended.
        request: what was asked; None where that could not be read.
        chat: it was a conversation.
    """

    context: TraceContext
    parent: TraceContext | None
    caller: TraceContext | None
    sampled: str
    model: str
    target: str
    arrived_ms: float
    answered_ms: float
    offset_ns: int
    finished: Finished
    request: Request | None = None
    chat: bool = False
