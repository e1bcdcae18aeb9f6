"""Which requests are traced, and under which span: known when a request begins, for the worker to know it too."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wanspec.core.events import Finished, Request
from wanspec.core.workercounters import SequenceRecord
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.records import RequestRecord
from wanspec.telemetry.settings import CONTROLLER, IDLE, SCARCE, WORKER, TraceSettings

if TYPE_CHECKING:
    from wanspec.telemetry.export import SpanExport

REGIONS = {CONTROLLER: SCARCE, WORKER: IDLE}


class RequestTracer:
    """Traces the requests of one endpoint: those that are to be from the start, and any that fail or are slow."""

    def __init__(
        self,
        settings: TraceSettings,
        instance: str,
        *,
        model: str,
        target: str,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """``instance``: names this process. ``decode``: turns tokens into text, where spans are to hold it."""
        self.settings = settings
        self.model = model
        self.target = target
        self.decode = decode if settings.content else None
        self.export = open_export(settings, CONTROLLER, instance)

    def begin(self, traceparent: str, *, recorded: bool = True) -> RequestTrace:
        """A request has come.

        Args:
            traceparent: of what it is part of; empty for nothing.
            recorded: false where the caller said that it does not record its trace.
        """
        return RequestTrace(self, traceparent, recorded)

    def close(self) -> None:
        """Send what waits; takes two seconds at most."""
        if self.export is not None:
            self.export.close()


class RequestTrace:
    """One request's trace.

    Attributes:
        traceparent: what the core and the worker are told: the request's own span where it is traced from the start,
            and the caller's context as it came where nothing is traced here.
        request: what was asked, once that is known.
        chat: it is a conversation.
    """

    def __init__(self, tracer: RequestTracer, traceparent: str, recorded: bool) -> None:
        self.traceparent = traceparent
        self.request: Request | None = None
        self.chat = False
        self._tracer = tracer
        self._over = tracer.export is None
        if self._over:
            return
        self._parent = parent = TraceContext.parse(traceparent)
        head = parent is not None and parent.sampled and recorded
        self._own = TraceContext.new(sampled=False) if parent is None else replace(parent.child(), sampled=head)
        self._arrived_ns = time.monotonic_ns()
        self._offset_ns = time.time_ns() - self._arrived_ns  # of now: wall clocks may be set
        self.traceparent = str(self._own) if head else ""

    def ended(self, finished: Finished) -> None:
        """The client has been told of the end. From any thread; does not block. Of several ends the first counts."""
        export = self._tracer.export
        if self._over or export is None:
            return
        self._over = True
        answered_ns = time.monotonic_ns()
        sampled = self._why(finished, (answered_ns - self._arrived_ns) / 1e6)
        if not sampled:
            return
        head, decode = self._own.sampled, self._tracer.decode
        record = RequestRecord(
            context=self._own,
            parent=self._parent if head else None,
            caller=None if head else self._parent,
            sampled=sampled,
            model=self._tracer.model,
            target=self._tracer.target,
            arrived_ms=self._arrived_ns / 1e6,
            answered_ms=answered_ns / 1e6,
            offset_ns=self._offset_ns,
            finished=finished,
            request=self.request,
            chat=self.chat,
        )
        from wanspec.telemetry.request_spans import request_spans  # which open_export has imported

        export.put(lambda: request_spans(record, export.resource, decode))

    def _why(self, finished: Finished, took_ms: float) -> str:
        if self._own.sampled:
            return "head"
        if finished.error and finished.reason != "cancelled":
            return "failed"
        return "slow" if 0.0 < self._tracer.settings.slow_ms <= took_ms else ""


class WorkerTracer:
    """Traces a worker's sequences: those whose controller does."""

    def __init__(self, settings: TraceSettings, instance: str) -> None:
        """``instance``: names this process."""
        self._export = open_export(settings, WORKER, instance)

    def ended(self, record: SequenceRecord) -> None:
        """A sequence has ended. From any thread; does not block."""
        export = self._export
        if export is None:
            return
        from wanspec.telemetry.worker_spans import sequence_spans  # which open_export has imported

        offset_ns = time.time_ns() - time.monotonic_ns()
        export.put(lambda: sequence_spans(record, export.resource, offset_ns))

    def close(self) -> None:
        """Send what waits; takes two seconds at most."""
        if self._export is not None:
            self._export.close()


def open_export(settings: TraceSettings, service: str, instance: str) -> SpanExport | None:
    """What sends the spans of a service; None where they go nowhere."""
    if not settings.url:
        return None
    # OpenTelemetry's SDK, for those who trace; now, and not while a request waits.
    from wanspec.telemetry import request_spans, worker_spans  # noqa: F401
    from wanspec.telemetry.export import SpanExport, resource_of

    return SpanExport(settings.url, resource_of(service, instance, REGIONS[service]))
