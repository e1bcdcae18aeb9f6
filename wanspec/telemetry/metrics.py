"""Keeps the metrics of a controller or a worker up to date, on a thread of its own: no round waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from wanspec.core.controller import Controller
from wanspec.core.events import Finished
from wanspec.core.worker import Worker
from wanspec.telemetry.looks import look_at_controller, look_at_worker
from wanspec.telemetry.registry import Families
from wanspec.telemetry.series import ControllerSeries, WorkerSeries

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
"""Between two looks: what a scrape shows is hardly older."""

LookT = TypeVar("LookT")


class Locked(Protocol):
    """A body, whose state machine can be looked at."""

    def look(self, at: Callable[[], LookT]) -> LookT:
        """Call ``at`` with the machine locked."""
        ...


class ControllerMetrics:
    """The metrics of the model ``wanspec``: from :meth:`start` to :meth:`close`."""

    def __init__(self, backend: Families) -> None:
        self._series = ControllerSeries(backend)
        self._refresher: _Refresher | None = None

    def start(self, body: Locked, controller: Controller) -> None:
        """Begin to look at a controller."""
        series = self._series
        if not series.exporting:
            return
        series.declare()
        self._refresher = _Refresher(
            lambda: series.show(body.look(lambda: look_at_controller(controller, series.seen))), series.ended
        )
        self._refresher.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop."""
        if self._refresher is not None:
            self._refresher.close(timeout_s)

    def ended(self, finished: Finished) -> None:
        """Take a request that has ended; from any thread, does not block."""
        if self._refresher is not None:
            self._refresher.put(finished)

    def refused(self) -> None:
        """Take a request that was refused before it had a number; from any thread."""
        self.ended(Finished(-1, "refused", {}))

    def failed(self) -> None:
        """Take a request that failed before it had a number, by a fault of ours; from any thread."""
        self.ended(Finished(-1, "error", {}))


class WorkerMetrics:
    """The metrics of the model ``wanspec_worker``: from :meth:`start` to :meth:`close`."""

    def __init__(self, backend: Families) -> None:
        self._series = WorkerSeries(backend)
        self._refresher: _Refresher | None = None

    def start(self, body: Locked, worker: Worker, links: Callable[[], int]) -> None:
        """Begin to look at a worker; ``links`` counts those that are open."""
        series = self._series
        if not series.exporting:
            return
        self._refresher = _Refresher(lambda: series.show(body.look(lambda: look_at_worker(worker, links()))))
        self._refresher.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop."""
        if self._refresher is not None:
            self._refresher.close(timeout_s)


class _Refresher:
    """Calls ``refresh`` every second, and ``take`` with what is put, all on one thread."""

    def __init__(self, refresh: Callable[[], None], take: Callable[[Finished], None] = lambda _: None) -> None:
        self._refresh, self._take = refresh, take
        self._queue: SimpleQueue[Finished | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wanspec-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, finished: Finished) -> None:
        self._queue.put(finished)

    def close(self, timeout_s: float) -> None:
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            left = due - time.monotonic()
            if left <= 0.0:
                due = time.monotonic() + PERIOD_S
                _attempt(self._refresh)
                continue
            try:
                finished = self._queue.get(timeout=left)
            except Empty:
                continue
            if finished is None:
                return
            _attempt(partial(self._take, finished))


def _attempt(do: Callable[[], None]) -> None:
    try:
        do()
    except Exception:  # the thread must live on
        logger.exception("metrics could not be brought up to date")
