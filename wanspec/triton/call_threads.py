"""Threads that make blocking calls. A round waits for the hand-over, so there is nothing to it but a queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

CallT = TypeVar("CallT")


class CallThreads(Generic[CallT]):
    """At most a given number of threads, started as they are needed.

    Attributes:
        waiting: calls that wait for a thread.
    """

    def __init__(self, serve: Callable[[CallT], None], most: int, name: str) -> None:
        """``serve`` makes a call, on a thread; it must not raise. ``name``: what the threads' names begin with."""
        self.waiting = 0
        self._serve = serve
        self._most = most
        self._name = name
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()
        self._calls: SimpleQueue[CallT | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def put(self, call: CallT) -> None:
        """Have a call made, or drop it after the end. From any thread; does not block."""
        with self._lock:
            if self._closed:
                return
            self.waiting += 1
            if self.waiting > self._idle and len(self._threads) < self._most:
                self._start_thread()
        self._calls.put(call)

    def close(self) -> None:
        """Make no more calls. Those under way go on."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._calls.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the threads to end, after :meth:`close`."""
        for thread in self._threads:
            thread.join(timeout_s)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                self.waiting -= 1
                raise
            logger.exception("no further thread for engine calls; %d go on", len(self._threads))
            return
        self._idle += 1
        self._threads.append(thread)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                self.waiting -= 1
                self._idle -= 1
                if self._closed:
                    return
            self._serve(call)
            with self._lock:
                self._idle += 1
