"""Event logs: all that a controller lives through, or what one of its sequences does, so that it replays alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from wanspec.core.eventlog import event_line, start_line
from wanspec.core.events import (
    Action,
    Cancelled,
    Drafted,
    Event,
    Failed,
    Finished,
    Observed,
    Received,
    Submitted,
    Verified,
)
from wanspec.core.messages import Drafts, Frame, Lost, Prefilled
from wanspec.core.wire import encode

if TYPE_CHECKING:
    from wanspec.core.controller import Controller

_OF_ONE = (Drafts, Prefilled, Lost)


class Logs:
    """The logs of a controller that are being written: its own, and those of requests that asked for one."""

    def __init__(self, controller: Controller, write: Callable[[str], None] | None) -> None:
        """``write``: receives the lines of the controller's own."""
        self._controller = controller
        self._write = write
        self._begun = False
        self._recorders: dict[int, Recorder] = {}

    def begin(self, sequence: int, now: float) -> None:
        """Keep a log of one sequence from here on."""
        self._recorders[sequence] = Recorder(sequence, self._controller, now)

    def resumed(self, event: Submitted, now: float) -> None:
        """Begin a sequence's own log with its request, which came earlier."""
        self._recorders[event.sequence].record(event, None, now)

    def record(self, event: Event, frame: Frame | None, now: float) -> None:
        """Take an event before the controller acts on it; ``frame`` is what a received one holds, if valid."""
        if self._write is not None:
            if not self._begun:
                self._begun = True
                self._write(start_line(self._controller.log_start(), now))
            self._write(event_line(event, now))
        for recorder in self._recorders.values():
            recorder.record(event, frame, now)

    def observed(self, name: str, value_ms: float, owner: int) -> None:
        """Take a measurement made on behalf of a sequence: the others' logs must hold it too."""
        for number, recorder in self._recorders.items():
            if owner != number:
                recorder.observed(name, value_ms)

    def closed(self, actions: list[Action]) -> list[Action]:
        """Put the logs of sequences that have ended into what their clients are told."""
        return [self._with_log(action) for action in actions] if self._recorders else actions

    def _with_log(self, action: Action) -> Action:
        if isinstance(action, Finished) and action.sequence in self._recorders:
            return replace(action, log=self._recorders.pop(action.sequence).lines())
        return action


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
        kept = tuple(m for m in frame.messages if not isinstance(m, _OF_ONE) or m.sequence == self._sequence)
        if len(kept) == len(frame.messages):
            return event
        return replace(event, data=encode(Frame(frame.header, kept)))
