"""What runs a state machine of the core for real: a lock around it, an asyncio loop on a thread, a timer."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

EventT = TypeVar("EventT")
ActionT = TypeVar("ActionT")
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
    """A state machine that events reach from any thread.

    All actions take effect in the order in which they were decided: engine calls are started at once, or kept by the
    thread that brought an engine's answer, which so goes straight on; all others are carried out on the loop's thread.
    """

    def __init__(self, name: str, machine: StateMachine[EventT, ActionT]) -> None:
        self.loop = asyncio.new_event_loop()
        self._machine = machine
        self._lock = threading.Lock()
        self._outbox: deque[ActionT] = deque()
        self._timer = _DeadlineTimer(self.loop, self._deadline, self.tick)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def is_engine_call(self, action: ActionT) -> bool:
        """Whether an action is work for an engine."""

    @abstractmethod
    def start_engine_call(self, action: ActionT) -> None:
        """Have an engine call done on another thread. On any thread, also with the machine locked; must not block."""

    @abstractmethod
    def act(self, action: ActionT) -> None:
        """Carry out any other action, on the loop's thread. Must not block."""

    @abstractmethod
    def tick(self) -> None:
        """Give the machine a tick, on the loop's thread."""

    def failed(self, action: ActionT) -> None:
        """An action could not be carried out, which has been logged."""

    @property
    def running(self) -> bool:
        """Whether the loop's thread is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the loop's thread."""
        self._thread.start()
        self.loop.call_soon_threadsafe(self.tick)

    def join(self, timeout_s: float) -> None:
        """Wait until the loop has been stopped."""
        self._thread.join(timeout_s)

    def handle(self, event: EventT) -> None:
        """Give the machine an event, on the loop's thread."""
        try:
            self._decide(event, keep_calls=False)
        finally:
            self._carry_out()

    def post(self, event: EventT) -> None:
        """Give the machine an event, from any thread."""
        self._call_soon(self.handle, event)

    def answered(self, event: EventT, *, keep_calls: bool) -> list[ActionT]:
        """Give the machine an engine's answer, on the engine's thread.

        Returns:
            With ``keep_calls``, the engine calls that follow, for the caller to make.
        """
        try:
            return self._decide(event, keep_calls)
        except Exception:  # a thread of a pool would swallow it
            logger.exception("%s failed", type(event).__name__)
            return []
        finally:
            self._call_soon(self._carry_out)

    def _decide(self, event: EventT, keep_calls: bool) -> list[ActionT]:
        kept: list[ActionT] = []
        with self._lock:
            for action in self._machine.handle(event, now_ms()):
                if not self.is_engine_call(action):
                    self._outbox.append(action)
                elif keep_calls:
                    kept.append(action)
                else:
                    self.start_engine_call(action)
        return kept

    def _carry_out(self) -> None:
        # No more than is there now: engines may add to it as fast as it is emptied, and the loop has other work.
        for _ in range(len(self._outbox)):
            action = self._outbox.popleft()
            try:
                self.act(action)
            except Exception:  # what follows may belong to others
                logger.exception("%s failed", type(action).__name__)
                self.failed(action)
        self._timer.arm()

    def _call_soon(self, do: Callable[..., None], *arguments: object) -> None:
        try:
            self.loop.call_soon_threadsafe(do, *arguments)
        except RuntimeError:
            logger.debug("the loop has closed; %s is dropped", do)

    def _deadline(self) -> float:
        with self._lock:
            return self._machine.deadline()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()


class _DeadlineTimer:
    """Calls ``tick`` on the loop once ``deadline()`` (ms of :func:`now_ms`) has passed.

    A deadline that moves away, as it does with nearly every event, costs nothing: the timer looks again when it fires.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deadline: Callable[[], float], tick: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._deadline = deadline
        self._tick = tick
        self._handle: asyncio.TimerHandle | None = None
        self._at = float("inf")

    def arm(self) -> None:
        """Take note of the deadline as it is now; on the loop's thread, after every event."""
        due = self._deadline()
        if due >= self._at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._at = due
        self._handle = self._loop.call_later(max(0.0, (due - now_ms()) / 1000.0), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._at = float("inf")
        if self._deadline() <= now_ms():
            self._tick()
        else:
            self.arm()
