"""What runs a state machine of the core for real: a lock around it, and a thread that keeps its deadlines."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

_AGAIN_MS = 100.0
"""Pause after a tick that failed."""

EventT = TypeVar("EventT")
ActionT = TypeVar("ActionT")
LookT = TypeVar("LookT")
_TakenT = TypeVar("_TakenT", contravariant=True)


class StateMachine(Protocol[_TakenT, ActionT]):
    """A controller or a worker."""

    def handle(self, event: _TakenT, now: float, /) -> list[ActionT]:
        """Take one event."""
        ...

    def deadline(self) -> float:
        """When a tick is due, ms."""
        ...


def now_ms() -> float:
    """The clock of all bodies: monotonic, ms."""
    return time.monotonic_ns() / 1e6


class Body(ABC, Generic[EventT, ActionT]):
    """A state machine that events reach from any thread, one at a time.

    The thread that brings an event begins the actions that follow, in the order in which they were decided. So nothing
    waits for another thread but what would block: that is handed to threads of the subclass.
    """

    def __init__(self, name: str, machine: StateMachine[EventT, ActionT]) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._timer = _DeadlineTimer(name, self._due)

    @abstractmethod
    def begin(self, action: ActionT) -> None:
        """Begin an action. On any thread, with the machine locked: must neither block nor give the machine an event."""

    @abstractmethod
    def is_engine_call(self, action: ActionT) -> bool:
        """Whether an action is work for an engine."""

    @abstractmethod
    def tick_event(self) -> EventT:
        """The event that tells the machine that time has passed."""

    @property
    def running(self) -> bool:
        """Whether deadlines are kept: from the start to the end."""
        return self._timer.running

    def start(self) -> None:
        """Start the threads."""
        self._timer.start()

    def handle(
        self, event: EventT, *, keep_calls: bool = False, provided: Callable[[], bool] | None = None
    ) -> list[ActionT]:
        """Give the machine an event, from any thread.

        Args:
            event: the event.
            keep_calls: do not begin the engine calls that follow, but return them.
            provided: looked at with the machine locked; the event is dropped where it is false.
        """
        kept: list[ActionT] = []
        with self._lock:
            if provided is not None and not provided():
                return kept
            try:
                for action in self._machine.handle(event, now_ms()):
                    if keep_calls and self.is_engine_call(action):
                        kept.append(action)
                        continue
                    try:
                        self.begin(action)
                    except Exception:  # what follows may belong to others
                        logger.exception("%s failed", type(action).__name__)
            finally:
                self._timer.arm(self._machine.deadline())
        return kept

    def look(self, at: Callable[[], LookT]) -> LookT:
        """Call ``at`` with the machine locked, from any thread: it must be short, and change nothing."""
        with self._lock:
            return at()

    def take(self, event: EventT) -> None:
        """Give the machine an event from a thread that has others to bring: what it raises is logged."""
        try:
            self.handle(event)
        except Exception:
            logger.exception("%s failed", type(event).__name__)

    def _due(self) -> None:
        with self._lock:
            due = self._machine.deadline()
        if due <= now_ms():
            self.handle(self.tick_event())
        else:
            self._timer.arm(due)


class _DeadlineTimer:
    """Calls ``due`` on its thread once a deadline (ms of :func:`now_ms`) has passed.

    A deadline that moves away, as it does with nearly every event, costs nothing: ``due`` looks again.
    """

    def __init__(self, name: str, due: Callable[[], None]) -> None:
        self._due = due
        self._changed = threading.Condition()
        self._at = float("-inf")
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Call ``due`` at once, and then whenever it is asked for."""
        self._thread.start()

    def arm(self, at: float) -> None:
        """Take note of the deadline as it is now; from any thread, after every event."""
        if at < self._at:
            with self._changed:
                self._at = min(self._at, at)
                self._changed.notify()

    def end(self, timeout_s: float) -> None:
        """End the thread, unless it is the caller's."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._wait():
            try:
                self._due()
            except Exception:  # deadlines are to be kept further on
                logger.exception("a tick failed")
                self.arm(now_ms() + _AGAIN_MS)

    def _wait(self) -> bool:
        """Wait for the deadline; return whether it has come rather than the end."""
        with self._changed:
            while not self._ended:
                left = (self._at - now_ms()) / 1000.0
                if left <= 0.0:
                    self._at = float("inf")
                    return True
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
        return False
