"""Runs a :class:`~wanspec.core.worker.Worker` for real: the draft engine on a thread, links on a loop."""

from __future__ import annotations

import logging
import threading
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
    WorkerAction,
    WorkerEvent,
)
from wanspec.core.worker import Worker
from wanspec.triton.body import Body

logger = logging.getLogger(__name__)

_CANCEL_POLL_S = 0.05


class Downlink(Protocol):
    """The open request of a link, for frames to its controller. Called from the body's thread."""

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

    def __init__(self, config: WorkerConfig, engine: DraftEngine) -> None:
        self.worker = Worker(config)
        super().__init__("wanspec-worker", self.worker)
        self._engine = engine
        self._calls: SimpleQueue[WorkerAction | None] = SimpleQueue()
        self._engine_thread = threading.Thread(target=self._serve, name="wanspec-draft", daemon=True)
        self._links: dict[int, Downlink] = {}
        self._numbers = 0

    def start(self) -> None:
        """Start the threads."""
        super().start()
        self._engine_thread.start()
        self.loop.call_soon_threadsafe(self._poll_cancelled)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the threads; open links end."""
        if not self.running:
            return
        self._calls.put(None)
        self.loop.call_soon_threadsafe(self._shut_down)
        self.join(timeout_s)

    def link(self, data: bytes, downlink: Downlink) -> None:
        """A controller opens a link with this frame; from any thread."""
        self.loop.call_soon_threadsafe(self._link, data, downlink)

    def steer(self, data: bytes) -> None:
        """A frame of a controller whose link is open; from any thread."""
        self.post(Steered(data))

    # On the loop's thread

    def is_engine_call(self, action: WorkerAction) -> bool:
        """Passes, and what the engine is to forget."""
        return isinstance(action, (Expand, Release))

    def start_engine_call(self, action: WorkerAction) -> None:
        """Queue a call; they are made in order."""
        self._calls.put(action)

    def act(self, action: WorkerAction) -> None:
        """Talk to controllers."""
        if isinstance(action, Send):
            downlink = self._links.get(action.link)
            if downlink is not None:
                downlink.send(action.data)
        elif isinstance(action, Disconnect):
            downlink = self._links.pop(action.link, None)
            if downlink is not None:
                logger.warning("link %d: closed: %s", action.link, action.reason)
                downlink.close()

    def tick(self) -> None:
        """A deadline has passed."""
        self.handle(Tick())

    def _link(self, data: bytes, downlink: Downlink) -> None:
        self._numbers += 1
        self._links[self._numbers] = downlink
        self.handle(LinkOpened(self._numbers, data))

    def _poll_cancelled(self) -> None:
        self.loop.call_later(_CANCEL_POLL_S, self._poll_cancelled)
        for number, downlink in list(self._links.items()):
            # What is carried out meanwhile may have closed others: these are not to be asked any more.
            if number in self._links and downlink.cancelled():
                del self._links[number]
                self.handle(Disconnected(number, "the controller left"))
                downlink.close()

    def _shut_down(self) -> None:
        for downlink in self._links.values():
            downlink.close()
        self._links.clear()
        self.loop.stop()

    # On the engine's thread

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            if isinstance(call, Release):
                self._release(call)
            elif isinstance(call, Expand):
                self.answered(self._expand(call), keep_calls=False)

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
