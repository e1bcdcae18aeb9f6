"""Sends spans to a collector, off every path that anyone waits on. What cannot be sent is dropped and counted."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from wanspec import __version__

logger = logging.getLogger(__name__)

Job: TypeAlias = Callable[[], Sequence[ReadableSpan]]
"""Makes the spans of one request, on the export's thread."""

JOBS = 256
SPANS = 16_384
_BATCH = 512
_DELAY_MS = 500.0
_TIMEOUT_S = 5.0
_CLOSE_S = 2.0


def resource_of(service: str, instance: str, region: str) -> Resource:
    """Who the spans are of. ``OTEL_RESOURCE_ATTRIBUTES`` of the environment adds to it, and may name the region."""
    named = {"service.name": service, "service.instance.id": instance, "service.version": __version__}
    return Resource({"cloud.region": region}).merge(Resource.create(named))


class SpanExport:
    """Takes jobs from any thread without blocking; makes spans of them on a thread of its own, and sends these.

    At most ``jobs`` wait to be made, and ``spans`` to be sent. What is beyond is dropped, as is what a collector does
    not take within five seconds: the first loss is logged, later ones are counted.
    """

    def __init__(self, url: str, resource: Resource, *, jobs: int = JOBS, spans: int = SPANS) -> None:
        """``url``: OTLP/HTTP endpoint. Starts threads: not before a fork."""
        library = logging.getLogger("opentelemetry.exporter")
        library.addHandler(_REASONS)
        library.propagate = False  # it would tell of every attempt
        self.resource = resource
        self._url = url
        self._most = spans
        self._made = 0
        self._dropped = 0
        self._closing = False
        self._losing = False
        self._counting = threading.Lock()
        self._exporter = _Counted(OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S), self._sent)
        self._batches = BatchSpanProcessor(
            self._exporter, max_queue_size=spans + _BATCH, schedule_delay_millis=_DELAY_MS, max_export_batch_size=_BATCH
        )
        self._jobs: queue.Queue[Job | None] = queue.Queue(jobs)
        self._thread = threading.Thread(target=self._run, name="wanspec-traces", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Requests and spans that were lost so far."""
        return self._dropped

    @property
    def sent(self) -> int:
        """Spans that the collector has taken."""
        return self._exporter.taken

    def put(self, job: Job) -> None:
        """Have spans made and sent, or drop them where too much waits."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._lost(1)

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Send what waits, for at most this long."""
        self._closing = True
        with suppress(queue.Full):  # the thread sees that this is closing after the last job
            self._jobs.put_nowait(None)
        ending = threading.Thread(target=self._end, name="wanspec-traces-end", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            self._exporter.shutdown()  # ends the pauses between attempts

    def _end(self) -> None:
        self._thread.join()
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._make(job)
            except Exception:  # the next ones are to be traced
                logger.exception("spans could not be made")
            if self._closing and self._jobs.empty():
                return

    def _make(self, job: Job) -> None:
        if self._made - self._exporter.done >= self._most:
            self._lost(1)
            return
        spans = list(job())
        room = max(0, self._most - (self._made - self._exporter.done))
        if room < len(spans):
            self._lost(len(spans) - room)
        for span in spans[:room]:
            self._made += 1
            self._batches.on_end(span)

    def _sent(self, spans: int, taken: bool) -> None:
        if not taken:
            self._lost(spans)
        elif self._losing:
            self._losing = False
            logger.warning("traces: %s takes spans again; %d were lost", self._url, self._dropped)

    def _lost(self, count: int) -> None:
        with self._counting:
            self._dropped += count
            first, self._losing = not self._losing, True
        if first:
            reason = _REASONS.last or "too many wait"
            logger.warning("traces: %s does not take spans, which are dropped until it does: %s", self._url, reason)


class _Reasons(logging.Handler):
    """Keeps the last of what the library says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


_REASONS = _Reasons()


class _Counted(SpanExporter):
    """Counts what has been sent, and what could not be."""

    def __init__(self, exporter: SpanExporter, sent: Callable[[int, bool], None]) -> None:
        self.done = 0
        self.taken = 0
        self._exporter = exporter
        self._told = sent
        self._ended = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans) if not self._ended.is_set() else SpanExportResult.FAILURE
        taken = result is SpanExportResult.SUCCESS
        self.done += len(spans)
        self.taken += len(spans) if taken else 0
        self._told(len(spans), taken)
        return result

    def shutdown(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._exporter.shutdown()
