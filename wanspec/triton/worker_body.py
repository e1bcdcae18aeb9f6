"""Runs a :class:`~wanspec.core.worker.Worker` for real: a thread with an asyncio loop, the draft engine on another."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


class WorkerBody:
    """One worker and its draft engine, on threads of their own."""

    def __init__(self, config: WorkerConfig, engine: DraftEngine) -> None:
        self.worker = Worker(config)
        self._engine = engine
        self._engine_thread = ThreadPoolExecutor(1, thread_name_prefix="wanspec-draft")
        self._links: dict[int, Downlink] = {}
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wanspec-worker", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._loop.call_soon_threadsafe(self._poll_cancelled)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the threads; open links end."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._shut_down)
        self._thread.join(timeout_s)
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

    def link(self, data: bytes, downlink: Downlink) -> None:
        """A controller opens a link with this frame; from any thread."""
        self._loop.call_soon_threadsafe(self._link, data, downlink)

    def steer(self, data: bytes) -> None:
        """A frame of a controller whose link is open; from any thread."""
        self._loop.call_soon_threadsafe(self._handle, Steered(data))

    # On the body's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _link(self, data: bytes, downlink: Downlink) -> None:
        self._numbers += 1
        self._links[self._numbers] = downlink
        self._handle(LinkOpened(self._numbers, data))

    def _handle(self, event: WorkerEvent) -> None:
        try:
            self._carry_out(self.worker.handle(event, _now()))
        finally:
            self._arm()

    def _carry_out(self, actions: list[WorkerAction]) -> None:
        for action in actions:
            try:
                self._act(action)
            except Exception:  # what follows may belong to other controllers
                logger.exception("%s failed", type(action).__name__)

    def _act(self, action: WorkerAction) -> None:
        if isinstance(action, Send):
            downlink = self._links.get(action.link)
            if downlink is not None:
                downlink.send(action.data)
        elif isinstance(action, Expand):
            self._engine_thread.submit(self._expand, action)
        elif isinstance(action, Release):
            self._engine_thread.submit(self._engine.release, action.key)
        elif isinstance(action, Disconnect):
            downlink = self._links.pop(action.link, None)
            if downlink is not None:
                logger.warning("link %d: closed: %s", action.link, action.reason)
                downlink.close()

    def _arm(self) -> None:
        due = self.worker.deadline()
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due < float("inf"):
            self._timer = self._loop.call_later(max(0.0, (due - _now()) / 1000.0), self._tick)

    def _tick(self) -> None:
        self._timer_at = float("inf")
        self._timer = None
        self._handle(Tick())

    def _poll_cancelled(self) -> None:
        self._loop.call_later(_CANCEL_POLL_S, self._poll_cancelled)
        for number, downlink in list(self._links.items()):
            if downlink.cancelled():
                del self._links[number]
                self._handle(Disconnected(number, "the controller left"))
                downlink.close()

    def _shut_down(self) -> None:
        for downlink in self._links.values():
            downlink.close()
        self._links.clear()
        self._loop.stop()

    # On the engine's thread

    def _expand(self, action: Expand) -> None:
        event: WorkerEvent
        try:
            event = Expanded(action.number, self._engine.expand(action.batch, action.top))
        except Exception as error:  # a thread of a pool would swallow it
            logger.exception("draft pass failed")
            event = ExpandFailed(action.number, str(error))
        try:
            self._loop.call_soon_threadsafe(self._handle, event)
        except RuntimeError:
            logger.debug("the worker has closed; a pass is dropped")


def _now() -> float:
    return time.monotonic_ns() / 1e6
