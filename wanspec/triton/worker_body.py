"""Runs a :class:`~wanspec.core.worker.Worker` for real: the draft engine on a thread, frames on another."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from wanspec.core.config import WorkerConfig
from wanspec.core.drafting import DraftEngine
from wanspec.core.events import (
    Disconnect,
    Disconnected,
    Expand,
    Expanded,
    ExpandFailed,
    LinkOpened,
    Release,
    Send,
    Steered,
    Tick,
    Traced,
    WorkerAction,
    WorkerEvent,
)
from wanspec.core.worker import Worker
from wanspec.core.workercounters import SequenceRecord
from wanspec.triton.body import Body

logger = logging.getLogger(__name__)

_CANCEL_POLL_S = 0.05


class Downlink(Protocol):
    """The open request of a link, for frames to its controller. Called from one thread at a time."""

    def send(self, data: bytes) -> None:
        """Send one frame."""
        ...

    def close(self) -> None:
        """End the request."""
        ...

    def cancelled(self) -> bool:
        """Whether the controller has gone away."""
        ...


class WorkerBody(Body[WorkerEvent, WorkerAction]):
    """One worker, its draft engine and its links.

    Attributes:
        worker: the state machine; not to be given events but by this body.
    """

    def __init__(
        self, config: WorkerConfig, engine: DraftEngine, *, traced: Callable[[SequenceRecord], None] | None = None
    ) -> None:
        """``traced`` is told of traced sequences that have ended, with the worker locked: it must not block."""
        self.worker = Worker(config)
        super().__init__("wanspec-worker", self.worker)
        self._engine = engine
        self._traced = traced
        self._calls: SimpleQueue[WorkerAction | None] = SimpleQueue()
        self._engine_thread = threading.Thread(target=self._serve, name="wanspec-draft", daemon=True)
        self._links: dict[int, Downlink] = {}
        self._numbers = itertools.count(1)
        self._frames = _Frames()
        self._ended = threading.Event()
        self._poll_thread = threading.Thread(target=self._poll_cancelled, name="wanspec-cancel", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        super().start()
        self._engine_thread.start()
        self._frames.start()
        self._poll_thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the threads; open links end."""
        if not self.running:
            return
        self._ended.set()
        self._calls.put(None)
        self._timer.end(timeout_s)
        self._poll_thread.join(timeout_s)
        for number in list(self._links):  # what was done for their sequences is told
            self.take(Disconnected(number, "the worker stops"))
        with self._lock:
            for downlink in self._links.values():
                self._frames.put(downlink, None)
            self._links.clear()
        self._frames.close(timeout_s)

    def link(self, data: bytes, downlink: Downlink) -> None:
        """A controller opens a link with this frame; from any thread."""
        number = next(self._numbers)
        self._links[number] = downlink
        self.take(LinkOpened(number, data))
        if number not in self._links:  # it left, and was seen to, before the worker knew of it
            self.take(Disconnected(number, "the controller left"))

    def steer(self, data: bytes) -> None:
        """A frame of a controller whose link is open; from any thread."""
        self.take(Steered(data))

    @property
    def links(self) -> int:
        """Open links."""
        return len(self._links)

    def is_engine_call(self, action: WorkerAction) -> bool:
        """Passes, and what the engine is to forget."""
        return isinstance(action, (Expand, Release))

    def begin(self, action: WorkerAction) -> None:
        """Queue engine calls, which are made in order, and what controllers are to be told."""
        if isinstance(action, (Expand, Release)):
            self._calls.put(action)
        elif isinstance(action, Send):
            downlink = self._links.get(action.link)
            if downlink is not None:
                self._frames.put(downlink, action.data)
        elif isinstance(action, Disconnect):
            downlink = self._links.pop(action.link, None)
            if downlink is not None:
                logger.warning("link %d: closed: %s", action.link, action.reason)
                self._frames.put(downlink, None)
        elif isinstance(action, Traced) and self._traced is not None:
            self._traced(action.record)

    def handle(
        self, event: WorkerEvent, *, keep_calls: bool = False, provided: Callable[[], bool] | None = None
    ) -> list[WorkerAction]:
        """Give the worker an event, from any thread; see :meth:`Body.handle`.

        Triton takes a frame in a fraction of a millisecond, and for that long its sender waits: that is the engine's
        thread where it has nothing else to do, and the frames' own thread otherwise.
        """
        try:
            return super().handle(event, keep_calls=keep_calls, provided=provided)
        finally:
            if threading.current_thread() is self._engine_thread and self._calls.empty():
                self._frames.send()
            else:
                self._frames.send_soon()

    def tick_event(self) -> WorkerEvent:
        """A deadline has passed."""
        return Tick()

    def _poll_cancelled(self) -> None:
        while not self._ended.wait(_CANCEL_POLL_S):
            for number, downlink in list(self._links.items()):
                if self._frames.has_left(downlink, lambda number=number: number in self._links):  # type: ignore[misc]
                    self._links.pop(number, None)
                    self.take(Disconnected(number, "the controller left"))
                    self._frames.put(downlink, None)
                    self._frames.send_soon()

    # On the engine's thread

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            if isinstance(call, Release):
                self._release(call)
            elif isinstance(call, Expand):
                self.take(self._expand(call))

    def _release(self, action: Release) -> None:
        try:
            self._engine.release(action.key)
        except Exception:  # the thread must live on
            logger.exception("release failed")

    def _expand(self, action: Expand) -> WorkerEvent:
        try:
            return Expanded(action.number, self._engine.expand(action.batch, action.top))
        except Exception as error:  # the thread must live on
            logger.exception("draft pass failed")
            return ExpandFailed(action.number, str(error))


class _Frames:
    """Frames on their way to controllers: sent in order, by whichever thread sends them."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Downlink, bytes | None]] = deque()
        self._sending = threading.Lock()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="wanspec-frames", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Send what waits, and end the thread."""
        self._wake.put(False)
        self._thread.join(timeout_s)

    def put(self, downlink: Downlink, data: bytes | None) -> None:
        """Add a frame, or None for the end of a link. Something has to send it."""
        self._waiting.append((downlink, data))

    def send_soon(self) -> None:
        """Have the thread send what waits."""
        if self._waiting:
            self._wake.put(True)

    def send(self) -> None:
        """Send what waits, unless another thread does so."""
        # Whoever is refused the lock has added before; the holder looks again once it has let go.
        while self._waiting and self._sending.acquire(blocking=False):
            try:
                while self._waiting:
                    _send(*self._waiting.popleft())
            finally:
                self._sending.release()

    def has_left(self, downlink: Downlink, open_still: Callable[[], bool]) -> bool:
        """Whether a controller has gone away; one whose link has ended is not asked."""
        try:
            with self._sending:
                return open_still() and downlink.cancelled()
        except Exception:
            logger.exception("whether a controller has left could not be told")
            return False
        finally:
            self.send_soon()  # what was refused the lock meanwhile

    def _serve(self) -> None:
        while self._wake.get():
            self.send()
        self.send()


def _send(downlink: Downlink, data: bytes | None) -> None:
    try:
        if data is None:
            downlink.close()
        else:
            downlink.send(data)
    except Exception:  # what follows may belong to others
        logger.exception("a frame could not be sent")
