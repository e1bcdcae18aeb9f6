"""Runs a controller for real: engine calls, clients and links (gRPC) on threads of their own."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wanspec.core.config import ControllerConfig
from wanspec.core.control import Control
from wanspec.core.controller import Controller
from wanspec.core.events import (
    Abort,
    Action,
    ActionId,
    Cancelled,
    Connect,
    Connected,
    Controlled,
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
from wanspec.core.totals import state_of
from wanspec.errors import BusyError, RequestStoppedError, WanspecError
from wanspec.network.link import LinkClient, LinkConnection, LinkTarget
from wanspec.triton.body import Body
from wanspec.triton.call_threads import CallThreads
from wanspec.triton.clients import Client, Clients
from wanspec.triton.tensorrt_llm import EngineAnswer

logger = logging.getLogger(__name__)


class Engines(Protocol):
    """Blocking engine calls, from any thread."""

    def verify(self, action: Verify, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        """Verify the action's drafts after ``prefix`` in one target pass."""
        ...

    def draft(self, action: Draft, prefix: NDArray[np.int32], timeout_ms: float) -> EngineAnswer:
        """Draft locally after ``prefix``, which holds the action's path."""
        ...

    def stop(self, action: ActionId) -> None:
        """End the call of this action, if it still runs."""
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
        control: Control | None = None,
        engine_threads: int = 64,
        event_log: Path | None = None,
        ended: Callable[[Finished], None] | None = None,
    ) -> None:
        """``ended`` is told of every end, also of refusals here, at once and from any thread: it must not block."""
        self._log_file = event_log.open("a", encoding="utf-8") if event_log is not None else None
        log = self._write_log if self._log_file is not None else None
        self.controller = Controller(config, control=control, log=log)
        super().__init__("wanspec-controller", self.controller)
        self._engines = engines
        self._links = [LinkClient(target, _LinkEvents(self, number)) for number, target in enumerate(links)]
        self._calls: CallThreads[Verify | Draft] = CallThreads(self._serve, engine_threads, "wanspec-engine")
        # A thread of its own: those of calls may all wait for what is to be stopped.
        self._stops: CallThreads[ActionId] = CallThreads(self._stop, 1, "wanspec-stop")
        self._clients = Clients(lambda sequence: self.take(Cancelled(sequence)))
        self._numbers = itertools.count(1)
        self._ended = ended

    def start(self) -> None:
        """Start the threads; links connect from now on."""
        super().start()
        self._clients.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the threads: running requests end with an error, links are closed."""
        if not self.running:
            return
        for number in self._clients.numbers():
            self.take(Cancelled(number))
        self._clients.close(timeout_s)
        self._timer.end(timeout_s)
        with self._lock:
            dropped = [link.close() for link in self._links]
        for connection in dropped:
            if connection is not None:
                connection.join(timeout_s)
        self._calls.close()
        self._stops.close()
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
        """Take a request, from any thread. The client is told of a refusal: reason ``refused``, or ``busy``."""
        number = next(self._numbers)
        self._clients.add(number, client)
        try:
            self.handle(Submitted(number, request))
        except Exception as error:
            if not isinstance(error, WanspecError):
                logger.exception("request %d failed before it began", number)
            self._tell(Finished(number, "busy" if isinstance(error, BusyError) else "refused", {}, str(error)))

    def set_control(self, control: Control) -> None:
        """Set the switches, from any thread.

        Raises:
            InvalidRequestError: the default policy cannot be.
        """
        self.handle(Controlled(control))

    def state(self) -> dict[str, Any]:
        """Describe the controller (``docs/operations.md``), from any thread."""
        return self.look(lambda: state_of(self.controller))

    def is_engine_call(self, action: Action) -> bool:
        """Verifications and local drafts."""
        return isinstance(action, (Verify, Draft))

    def begin(self, action: Action) -> None:
        """Hand engine calls to threads, tokens to the clients' threads, frames to the links."""
        if isinstance(action, (Verify, Draft)):
            self._calls.put(action)
        elif isinstance(action, Send):
            self._links[action.link].send(action.data, action.opening)
        elif isinstance(action, (Emit, Finished)):
            self._tell(action)
        elif isinstance(action, Connect):
            self._links[action.link].connect()
        elif isinstance(action, Disconnect):
            logger.warning("link %d: dropped: %s", action.link, action.reason)
            self._links[action.link].close()
        elif isinstance(action, Abort):
            self._stops.put(action.action)

    def tick_event(self) -> Event:
        """A deadline has passed."""
        return Tick()

    def from_link(self, number: int, connection: LinkConnection, event: Event) -> None:
        """Give the controller an event of a link, unless the connection has been given up meanwhile."""
        self.handle(event, provided=lambda: self._links[number].connection is connection)

    def _tell(self, action: Emit | Finished) -> None:
        self._clients.tell(action)
        if self._ended is not None and isinstance(action, Finished):
            self._ended(action)

    def _write_log(self, line: str) -> None:
        assert self._log_file is not None
        if self._log_file.closed:  # an engine may answer after the end
            return
        try:
            self._log_file.write(line + "\n")
        except OSError:  # such as a full disk: the log is not worth an event
            logger.exception("the event log cannot be written; it ends here")
            with suppress(OSError):
                self._log_file.close()

    # On threads of engine calls

    def _serve(self, action: Verify | Draft) -> None:
        """Make a call, and those that follow from its answer as long as no other waits for a thread."""
        calls: list[Action] = [action]
        while calls:
            call = calls.pop()
            assert isinstance(call, (Verify, Draft))
            calls = self._answered(self._call(call))
            while calls and (len(calls) > 1 or self._calls.waiting > 0):
                following = calls.pop()
                assert isinstance(following, (Verify, Draft))
                self._calls.put(following)

    def _answered(self, event: Event) -> list[Action]:
        try:
            return self.handle(event, keep_calls=True)
        except Exception:  # the thread must live on
            logger.exception("%s failed", type(event).__name__)
            return []

    def _call(self, action: Verify | Draft) -> Event:
        timeout = self.controller.config.engine_ms
        try:
            if isinstance(action, Verify):
                answer = self._engines.verify(action, _array(action.prefix, action.length), timeout)
                return Verified(action.action, answer.tokens, answer.log_probs, answer.engine_ms, answer.blocks)
            answer = self._engines.draft(action, _array(action.prefix, action.length, action.path), timeout)
            return Drafted(action.action, answer.tokens, answer.log_probs, answer.engine_ms)
        except RequestStoppedError as error:  # nobody waits for it
            return Failed(action.action, str(error))
        except Exception as error:  # the thread must live on
            logger.exception("engine call failed")
            return Failed(action.action, str(error))

    # On the thread of stops

    def _stop(self, action: ActionId) -> None:
        try:
            self._engines.stop(action)
        except Exception as error:  # it ends by itself, only later
            logger.warning("engine call %s could not be stopped: %s", action, error)


class _LinkEvents:
    """Gives a link's happenings to the controller."""

    def __init__(self, body: ControllerBody, number: int) -> None:
        self._body = body
        self._number = number

    def connected(self, connection: LinkConnection) -> None:
        self._body.from_link(self._number, connection, Connected(self._number))

    def received(self, connection: LinkConnection, data: bytes) -> None:
        self._body.from_link(self._number, connection, Received(self._number, data))

    def disconnected(self, connection: LinkConnection, reason: str) -> None:
        logger.info("link %d: down: %s", self._number, reason)
        self._body.from_link(self._number, connection, Disconnected(self._number, reason))


def _array(prefix: Sequence[int], length: int, path: tuple[int, ...] = ()) -> NDArray[np.int32]:
    array = np.empty(length + len(path), dtype=np.int32)
    array[:length] = prefix[:length]
    array[length:] = path
    return array
