"""Records what one sequence of a controller lives through, so that it replays alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wanspec.core.eventlog import event_line, start_line
from wanspec.core.events import Cancelled, Drafted, Event, Failed, Observed, Received, Submitted, Verified
from wanspec.core.messages import Drafts, Frame, Lost
from wanspec.core.wire import encode

if TYPE_CHECKING:
    from wanspec.core.controller import Controller


class Recorder:
    """Keeps the events that reach one sequence; of the others only their measurements, never their tokens."""

    def __init__(self, sequence: int, controller: Controller, now: float) -> None:
        self._sequence = sequence
        # The client gets this log: it must not learn by which name the worker knows the controller.
        self._start = start_line(replace(controller.log_start(), instance=bytes(16)), now)
        self._events: list[tuple[Event, float]] = []
        self._now = now

    def lines(self) -> tuple[str, ...]:
        """The log so far. Encoded here and not before, since every sequence waits while an event is taken."""
        return (self._start, *(event_line(event, now) for event, now in self._events))

    def record(self, event: Event, frame: Frame | None, now: float) -> None:
        """Add an event, reduced to what concerns the sequence; ``frame`` is what a received one holds, if valid."""
        self._now = now
        kept = self._reduce(event, frame)
        if kept is not None:
            self._events.append((kept, now))

    def observed(self, name: str, value_ms: float) -> None:
        """Add a measurement that another sequence made."""
        self._events.append((Observed(name, value_ms), self._now))

    def _reduce(self, event: Event, frame: Frame | None) -> Event | None:
        if isinstance(event, (Submitted, Cancelled)):
            return event if event.sequence == self._sequence else None
        if isinstance(event, (Verified, Drafted, Failed)):
            return event if event.action[0] == self._sequence else None
        return event if frame is None or not isinstance(event, Received) else self._reduce_frame(event, frame)

    def _reduce_frame(self, event: Received, frame: Frame) -> Received:
        kept = tuple(m for m in frame.messages if not isinstance(m, (Drafts, Lost)) or m.sequence == self._sequence)
        if len(kept) == len(frame.messages):
            return event
        return replace(event, data=encode(Frame(frame.header, kept)))
