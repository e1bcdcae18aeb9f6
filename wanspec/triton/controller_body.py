"""Runs a controller for real: a thread with an asyncio loop, engine calls in a pool, links on gRPC."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wanspec.core.config import ControllerConfig
from wanspec.core.controller import Controller
from wanspec.core.events import (
    Abort,
    Action,
    Cancelled,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Draft,
    Drafted,
    Emit,
    Event,
    Failed,
    Finished,
    Received,
    Request,
    Send,
    Submitted,
    Tick,
    Verified,
    Verify,
)
from wanspec.core.tree import Origin
from wanspec.errors import WanspecError
from wanspec.network.link import LinkClient, LinkTarget
from wanspec.triton.tensorrt_llm import EngineAnswer

logger = logging.getLogger(__name__)

_CANCEL_POLL_S = 0.02


class Engines(Protocol):
    """Blocking engine calls, from any thread."""

    def verify(self, action: Verify, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        """Verify the action's drafts after ``prefix`` in one target pass."""
        ...

    def draft(self, action: Draft, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        """Draft locally after ``prefix``, which holds the action's path."""
        ...


class Client(Protocol):
    """Whoever asked. Called from the body's thread; must not block."""

    def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...]) -> None:
        """More committed tokens."""
        ...

    def finished(self, finished: Finished) -> None:
        """The end, whatever it is."""
        ...

    def cancelled(self) -> bool:
        """Whether the client has gone away."""
        ...


class ControllerBody:
    """One controller, its engines and its links, on a thread of their own.

    Attributes:
        controller: the state machine; only the body's thread may touch it.
    """

    def __init__(
        self,
        config: ControllerConfig,
        engines: Engines,
        links: Sequence[LinkTarget] = (),
        *,
        engine_threads: int = 64,
        event_log: Path | None = None,
    ) -> None:
        self._log_file = event_log.open("a", encoding="utf-8") if event_log is not None else None
        self.controller = Controller(config, log=self._write_log if self._log_file is not None else None)
        self._engines = engines
        self._links = [LinkClient(target, _LinkEvents(self, number)) for number, target in enumerate(links)]
        self._pool = ThreadPoolExecutor(engine_threads, thread_name_prefix="wanspec-engine")
        self._clients: dict[int, Client] = {}
        self._numbers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wanspec-controller", daemon=True)

    def start(self) -> None:
        """Start the thread; links connect from now on."""
        self._thread.start()
        self._loop.call_soon_threadsafe(self._tick)
        self._loop.call_soon_threadsafe(self._poll_cancelled)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the thread: running requests end with an error, links are closed."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop)
        self._thread.join(timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._log_file is not None:
            self._log_file.close()

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be served, from any thread.

        Raises:
            InvalidRequestError: names the field, what was given and the limit.
        """
        self.controller.check(request)

    def submit(self, request: Request, client: Client) -> None:
        """Take a request, from any thread. Refusals reach the client as :class:`Finished` with reason ``error``."""
        self._loop.call_soon_threadsafe(self._submit, request, client)

    def handle(self, event: Event) -> None:
        """Give the controller an event; on the body's thread only."""
        try:
            self._carry_out(self.controller.handle(event, _now()))
        finally:
            self._arm()

    # On the body's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _submit(self, request: Request, client: Client) -> None:
        self._numbers += 1
        number = self._numbers
        self._clients[number] = client
        try:
            self.handle(Submitted(number, request))
        except Exception as error:
            if not isinstance(error, WanspecError):
                logger.exception("request %d failed before it began", number)
            self._clients.pop(number, None)
            client.finished(Finished(number, "error", {}, str(error)))

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            try:
                self._act(action)
            except Exception:  # what follows may belong to other sequences
                logger.exception("%s failed", type(action).__name__)
                if isinstance(action, Emit):
                    self._loop.call_soon(self.handle, Cancelled(action.sequence))

    def _act(self, action: Action) -> None:
        if isinstance(action, Verify):
            self._pool.submit(self._verify, action, _array(action.prefix, action.length))
        elif isinstance(action, Draft):
            self._pool.submit(self._draft, action, _array(action.prefix, action.length, action.path))
        elif isinstance(action, Send):
            self._links[action.link].send(action.data, action.opening)
        elif isinstance(action, Emit):
            self._clients[action.sequence].emit(action.tokens, action.origins)
        elif isinstance(action, Finished):
            self._clients.pop(action.sequence).finished(action)
        elif isinstance(action, Connect):
            self._links[action.link].connect(self._loop)
        elif isinstance(action, Disconnect):
            logger.warning("link %d: dropped: %s", action.link, action.reason)
            self._links[action.link].close()
        elif isinstance(action, Abort):
            # A BLS call of a non-decoupled model cannot be cancelled; its answer will be ignored.
            logger.debug("engine call %s is no longer needed", action.action)

    def _arm(self) -> None:
        due = self.controller.deadline()
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
        self.handle(Tick())

    def _poll_cancelled(self) -> None:
        self._loop.call_later(_CANCEL_POLL_S, self._poll_cancelled)
        for number, client in list(self._clients.items()):
            if client.cancelled():
                self.handle(Cancelled(number))

    async def _shut_down(self) -> None:
        for number in list(self._clients):
            self.handle(Cancelled(number))
        for link in self._links:
            await link.aclose()
        self._loop.stop()

    def _write_log(self, line: str) -> None:
        assert self._log_file is not None
        self._log_file.write(line + "\n")

    # On threads of the pool

    def _verify(self, action: Verify, prefix: NDArray[np.int32]) -> None:
        timeout = self.controller.config.engine_ms
        self._answer(action.action, Verified, lambda: self._engines.verify(action, prefix, timeout))

    def _draft(self, action: Draft, prefix: NDArray[np.int32]) -> None:
        timeout = self.controller.config.engine_ms
        self._answer(action.action, Drafted, lambda: self._engines.draft(action, prefix, timeout))

    def _answer(
        self, action: tuple[int, int], kind: type[Verified] | type[Drafted], call: Callable[[], EngineAnswer]
    ) -> None:
        event: Event
        try:
            answer = call()
            event = kind(action, answer.tokens, answer.log_probs, answer.engine_ms)
        except Exception as error:  # a thread of a pool would swallow it
            logger.exception("engine call failed")
            event = Failed(action, str(error))
        try:
            self._loop.call_soon_threadsafe(self.handle, event)
        except RuntimeError:
            logger.debug("the controller has closed; an engine's answer is dropped")


class _LinkEvents:
    """Gives a link's happenings to the controller."""

    def __init__(self, body: ControllerBody, number: int) -> None:
        self._body = body
        self._number = number

    def connected(self) -> None:
        self._body.handle(Connected(self._number))

    def received(self, data: bytes) -> None:
        self._body.handle(Received(self._number, data))

    def disconnected(self, reason: str) -> None:
        logger.info("link %d: down: %s", self._number, reason)
        self._body.handle(Disconnected(self._number, reason))


def _array(prefix: Sequence[int], length: int, path: tuple[int, ...] = ()) -> NDArray[np.int32]:
    array = np.empty(length + len(path), dtype=np.int32)
    array[:length] = prefix[:length]
    array[length:] = path
    return array


def _now() -> float:
    return time.monotonic_ns() / 1e6
