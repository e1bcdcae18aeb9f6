"""Runs a controller for real: engine calls in a pool, clients and links (gRPC) on a loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
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
from wanspec.triton.body import Body
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


class ControllerBody(Body[Event, Action]):
    """One controller, its engines and its links.

    Attributes:
        controller: the state machine; not to be given events but by this body.
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
        super().__init__("wanspec-controller", self.controller)
        self._engines = engines
        self._links = [LinkClient(target, _LinkEvents(self, number)) for number, target in enumerate(links)]
        self._pool = ThreadPoolExecutor(engine_threads, thread_name_prefix="wanspec-engine")
        self._waiting = 0
        self._waiting_lock = threading.Lock()
        self._clients: dict[int, Client] = {}
        self._numbers = 0

    def start(self) -> None:
        """Start the thread; links connect from now on."""
        super().start()
        self.loop.call_soon_threadsafe(self._poll_cancelled)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the thread: running requests end with an error, links are closed."""
        if not self.running:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self.loop)
        self.join(timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._log_file is not None:
            with self._lock:
                self._log_file.close()

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be served, from any thread.

        Raises:
            InvalidRequestError: names the field, what was given and the limit.
        """
        self.controller.check(request)

    def submit(self, request: Request, client: Client) -> None:
        """Take a request, from any thread. Refusals reach the client as :class:`Finished` with reason ``error``."""
        self.loop.call_soon_threadsafe(self._submit, request, client)

    # On the loop's thread

    def is_engine_call(self, action: Action) -> bool:
        """Verifications and local drafts."""
        return isinstance(action, (Verify, Draft))

    def start_engine_call(self, action: Action) -> None:
        """Queue a call for the pool."""
        assert isinstance(action, (Verify, Draft))
        with self._waiting_lock:
            self._waiting += 1
        self._pool.submit(self._serve, action)

    def act(self, action: Action) -> None:
        """Talk to clients and links."""
        if isinstance(action, Send):
            self._links[action.link].send(action.data, action.opening)
        elif isinstance(action, Emit):
            self._clients[action.sequence].emit(action.tokens, action.origins)
        elif isinstance(action, Finished):
            self._clients.pop(action.sequence).finished(action)
        elif isinstance(action, Connect):
            self._links[action.link].connect(self.loop)
        elif isinstance(action, Disconnect):
            logger.warning("link %d: dropped: %s", action.link, action.reason)
            self._links[action.link].close()
        elif isinstance(action, Abort):
            # A BLS call of a non-decoupled model cannot be cancelled; its answer will be ignored.
            logger.debug("engine call %s is no longer needed", action.action)

    def failed(self, action: Action) -> None:
        """A client that cannot be told of its tokens has gone."""
        if isinstance(action, Emit):
            self.loop.call_soon(self.handle, Cancelled(action.sequence))

    def tick(self) -> None:
        """A deadline has passed."""
        self.handle(Tick())

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

    def _poll_cancelled(self) -> None:
        self.loop.call_later(_CANCEL_POLL_S, self._poll_cancelled)
        for number, client in list(self._clients.items()):
            # What is carried out meanwhile may have ended others: these are not to be asked any more.
            if number in self._clients and client.cancelled():
                self.handle(Cancelled(number))

    async def _shut_down(self) -> None:
        for number in list(self._clients):
            self.handle(Cancelled(number))
        for link in self._links:
            await link.aclose()
        self.loop.stop()

    def _write_log(self, line: str) -> None:
        assert self._log_file is not None
        if not self._log_file.closed:  # an engine may answer after the end
            self._log_file.write(line + "\n")

    # On threads of the pool

    def _serve(self, action: Verify | Draft) -> None:
        """Make a call, and those that follow from its answer as long as no other waits for a thread."""
        with self._waiting_lock:
            self._waiting -= 1
        calls: list[Action] = [action]
        while calls:
            call = calls.pop()
            assert isinstance(call, (Verify, Draft))
            calls = self.answered(self._call(call), keep_calls=True)
            while calls and (len(calls) > 1 or self._waiting > 0):
                self.start_engine_call(calls.pop())

    def _call(self, action: Verify | Draft) -> Event:
        timeout = self.controller.config.engine_ms
        try:
            if isinstance(action, Verify):
                answer = self._engines.verify(action, _array(action.prefix, action.length), timeout)
                return Verified(action.action, answer.tokens, answer.log_probs, answer.engine_ms)
            answer = self._engines.draft(action, _array(action.prefix, action.length, action.path), timeout)
            return Drafted(action.action, answer.tokens, answer.log_probs, answer.engine_ms)
        except Exception as error:  # a thread of a pool would swallow it
            logger.exception("engine call failed")
            return Failed(action.action, str(error))


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
