"""The clients of a controller's endpoint: told of their tokens, asked whether they have left, on threads of their own.

Triton takes a response in a fraction of a millisecond, and for that long the sender waits. No round does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from wanspec.core.events import Emit, Finished
from wanspec.core.tree import Origin

logger = logging.getLogger(__name__)

_THREADS = 4
_CANCEL_POLL_S = 0.02


class Client(Protocol):
    """Whoever asked. Called from one thread, but for ``cancelled``."""

    def emit(self, tokens: tuple[int, ...], origins: tuple[Origin, ...], log_probs: tuple[float, ...]) -> None:
        """More committed tokens; their log-probabilities where the request asked for them."""
        ...

    def finished(self, finished: Finished) -> None:
        """The end, whatever it is."""
        ...

    def cancelled(self) -> bool:
        """Whether the client has gone away. Not asked after the end."""
        ...


class Clients:
    """The clients of running sequences, by the sequence's number. Each is told things in order."""

    def __init__(self, left: Callable[[int], object]) -> None:
        """``left`` is called with the number of one that has gone away or cannot be told, on threads of this."""
        self._left = left
        self._clients: dict[int, Client] = {}
        self._asking = threading.Lock()
        self._ended = threading.Event()
        self._queues: list[SimpleQueue[Emit | Finished | None]] = [SimpleQueue() for _ in range(_THREADS)]
        self._threads = [
            threading.Thread(target=self._serve, args=(queue,), name="wanspec-client", daemon=True)
            for queue in self._queues
        ]
        self._threads.append(threading.Thread(target=self._poll, name="wanspec-cancel", daemon=True))

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout_s: float) -> None:
        """End the threads, after all that clients are to be told."""
        self._ended.set()
        for queue in self._queues:
            queue.put(None)
        for thread in self._threads:
            thread.join(timeout_s)

    def add(self, number: int, client: Client) -> None:
        """Take a client, whose sequence begins."""
        self._clients[number] = client

    def tell(self, action: Emit | Finished) -> None:
        """Have a client told of tokens, or of the end. From any thread; does not block."""
        self._queues[action.sequence % _THREADS].put(action)

    def numbers(self) -> list[int]:
        """Those that have not been told of their end."""
        return list(self._clients)

    def _serve(self, queue: SimpleQueue[Emit | Finished | None]) -> None:
        while (action := queue.get()) is not None:
            try:
                self._carry_out(action)
            except Exception:  # what follows belongs to others
                logger.exception("%s failed", type(action).__name__)
                if isinstance(action, Emit):
                    self._left(action.sequence)

    def _carry_out(self, action: Emit | Finished) -> None:
        if isinstance(action, Emit):
            self._clients[action.sequence].emit(action.tokens, action.origins, action.log_probs)
            return
        with self._asking:
            client = self._clients.pop(action.sequence)
        client.finished(action)

    def _poll(self) -> None:
        while not self._ended.wait(_CANCEL_POLL_S):
            for number in list(self._clients):
                try:
                    if self._has_left(number):
                        self._left(number)
                except Exception:  # the others are to be asked too
                    logger.exception("whether a client has left could not be told")

    def _has_left(self, number: int) -> bool:
        with self._asking:
            client = self._clients.get(number)
            return client is not None and client.cancelled()
