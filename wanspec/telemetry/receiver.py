"""An OTLP/HTTP receiver that keeps the spans it is sent: for tests and benchmarks, and to look at traces by hand."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

PATH = "/v1/traces"
_POLL_S = 0.02
_IDS = ("traceId", "spanId", "parentSpanId")


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came. Ids are hexadecimal, ``parent`` is empty for a root; times are ns since the epoch.

    ``events``: (ns, name). ``failed``: its status is an error, which ``message`` describes.
    """

    trace: str
    id: str
    parent: str
    name: str
    begin_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[tuple[int, str], ...] = ()
    links: tuple[str, ...] = ()
    failed: bool = False
    message: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ms(self) -> float:
        """How long it took."""
        return (self.end_ns - self.begin_ns) / 1e6


class SpanReceiver:
    """A collector on 127.0.0.1. ``with SpanReceiver() as receiver: ... receiver.url``.

    Attributes:
        spans: all that have come, in order.
        bodies: the requests as they came, uncompressed.
    """

    def __init__(self, port: int = 0) -> None:
        """``port``: 0 for a free one."""
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self._take))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="otlp-receiver", daemon=True
        )

    @property
    def url(self) -> str:
        """Where spans are to be sent."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    def wait(self, enough: Callable[[list[Span]], bool], timeout_s: float = 20.0) -> list[Span]:
        """Return all spans once they are enough.

        Raises:
            TimeoutError: they were not in time.
        """
        deadline = time.monotonic() + timeout_s
        while not enough(spans := list(self.spans)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(spans)} spans after {timeout_s:g} s: {sorted({s.name for s in spans})}")
            time.sleep(_POLL_S)
        return spans

    def of(self, trace: str, names: Set[str], timeout_s: float = 20.0) -> list[Span]:
        """Return the spans of one trace once there are some of all these names.

        Raises:
            TimeoutError: says which are missing.
        """
        found: list[Span] = []

        def enough(spans: list[Span]) -> bool:
            found[:] = [span for span in spans if span.trace == trace]
            return names <= {span.name for span in found}

        try:
            self.wait(enough, timeout_s)
        except TimeoutError:
            missing = sorted(names - {span.name for span in found})
            raise TimeoutError(f"{', '.join(missing)} of trace {trace} did not come in {timeout_s:g} s") from None
        return found

    def __enter__(self) -> SpanReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def _take(self, body: bytes) -> None:
        self.bodies.append(body)
        self.spans += read_spans(body)


def read_spans(body: bytes) -> list[Span]:
    """The spans of one OTLP request, which is binary (as the SDK of Python sends) or JSON (as Triton does)."""
    request = ExportTraceServiceRequest()
    if body.startswith(b"{"):
        json_format.ParseDict(_with_ids(json.loads(body)), request, ignore_unknown_fields=True)
    else:
        request.ParseFromString(body)
    return [
        Span(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            _values(span.attributes),
            tuple((event.time_unix_nano, event.name) for event in span.events),
            tuple(link.span_id.hex() for link in span.links),
            span.status.code == span.status.STATUS_CODE_ERROR,
            span.status.message,
            _values(group.resource.attributes),
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _with_ids(message: Any) -> Any:
    """OTLP's JSON has ids in hexadecimal, where that of Protobuf has base64."""
    if isinstance(message, list):
        return [_with_ids(each) for each in message]
    if not isinstance(message, dict):
        return message
    return {
        name: base64.b64encode(bytes.fromhex(value)).decode() if name in _IDS else _with_ids(value)
        for name, value in message.items()
    }


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _handler(take: Callable[[bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = self.path == PATH
            if known:
                take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
            """Say nothing."""

    return Handler
