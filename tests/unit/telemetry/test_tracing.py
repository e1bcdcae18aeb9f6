"""Which requests are traced, and under which span."""

from __future__ import annotations

import json

import pytest

from tests.unit.telemetry.trace_doubles import rounds, summary
from wanspec.core.events import Finished, Request
from wanspec.core.workercounters import PassRecord, SequenceRecord
from wanspec.errors import ConfigError
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.receiver import SpanReceiver
from wanspec.telemetry.settings import TraceSettings, check_url
from wanspec.telemetry.tracing import RequestTracer, WorkerTracer
from wanspec.triton.parameters import Parameters
from wanspec.triton.traces import read_trace_settings, trace_context, trace_flags, trace_parameters

CALLER = TraceContext(0xABC, 0xDEF)
UNSAMPLED = TraceContext(0x123, 0x456, sampled=False)
GOOD = Finished(1, "length", summary(), rounds=rounds()[:2], submitted_ms=1.0)
BAD = Finished(1, "error", summary(), "target engine: dead", rounds=rounds(), submitted_ms=1.0)
LEFT = Finished(1, "cancelled", summary(), "the request was cancelled", rounds=rounds()[:1], submitted_ms=1.0)


@pytest.fixture
def receiver():
    with SpanReceiver() as receiver:
        yield receiver


def requests_of(receiver, traceparent, finished, *, recorded=True, slow_ms=0.0):
    """The spans of one request, and what its worker was told."""
    tracer = tracer_of(TraceSettings(receiver.url, slow_ms=slow_ms))
    trace = tracer.begin(traceparent, recorded=recorded)
    told = trace.traceparent
    trace.request = Request((1,), 2, traceparent=told)
    trace.ended(finished)
    trace.ended(BAD)  # one end counts
    tracer.close()
    return told, [span for span in receiver.spans if span.name == "wanspec.request"]


def tracer_of(settings):
    return RequestTracer(settings, "instance", model="wanspec", target="small", decode=str)


def test_a_caller_that_records_has_it_recorded(receiver):
    told, (span,) = requests_of(receiver, str(CALLER), GOOD)
    worker = TraceContext.parse(told)
    assert (span.trace, span.parent) == (CALLER.trace, f"{CALLER.span_id:016x}")
    assert (worker.trace, f"{worker.span_id:016x}", worker.sampled) == (span.trace, span.id, True)
    assert span.attributes["wanspec.sampled"] == "head"


@pytest.mark.parametrize("traceparent", ["", "nonsense", str(UNSAMPLED)])
def test_others_are_not(receiver, traceparent):
    assert requests_of(receiver, traceparent, GOOD) == ("", [])


def test_a_caller_that_says_not_to_is_heeded_where_triton_does_not(receiver):
    assert requests_of(receiver, str(CALLER), GOOD, recorded=False) == ("", [])


@pytest.mark.parametrize("traceparent", ["", str(UNSAMPLED)])
def test_failures_are_traced_in_any_case(receiver, traceparent):
    told, (span,) = requests_of(receiver, traceparent, BAD)
    assert (told, span.parent, span.failed, span.attributes["wanspec.sampled"]) == ("", "", True, "failed")
    assert span.links == ((f"{UNSAMPLED.span_id:016x}",) if traceparent else ())
    if traceparent:
        assert span.trace == UNSAMPLED.trace


def test_so_are_slow_ones(receiver):
    _, (span,) = requests_of(receiver, "", GOOD, slow_ms=0.000_001)
    assert (span.failed, span.attributes["wanspec.sampled"]) == (False, "slow")
    assert requests_of(receiver, "", GOOD, slow_ms=60_000.0)[1] == [span]


def test_a_client_that_leaves_is_no_failure(receiver):
    assert requests_of(receiver, "", LEFT) == ("", [])


def test_without_a_collector_the_caller_is_passed_on():
    tracer = tracer_of(TraceSettings())
    assert tracer.export is None
    trace = tracer.begin(str(CALLER))
    trace.ended(GOOD)
    tracer.close()
    assert trace.traceparent == str(CALLER)


def test_a_worker_traces_under_the_request(receiver):
    passes = [PassRecord(10.0, 18.0, 7.0, 1.0, 2, 4, 31, 64), PassRecord(20.0, 27.0, 6.5, 0.5, 3, 3, 32, 3)]
    record = SequenceRecord(5, 2, str(CALLER), 9.0, 30.0, "lost: desync", 12, 12, passes)
    tracer = WorkerTracer(TraceSettings(receiver.url), "worker")
    tracer.ended(record)
    tracer.ended(SequenceRecord(6, 1, "nonsense", 0.0))
    tracer.close()
    sequence, *each = receiver.spans
    assert (sequence.name, sequence.parent, sequence.failed) == (
        "wanspec.worker.sequence",
        f"{CALLER.span_id:016x}",
        True,
    )
    assert sequence.events[0][1] == sequence.message == "lost: desync"
    assert (sequence.attributes["wanspec.worker.passes"], sequence.attributes["wanspec.worker.gpu_ms"]) == (2, 13.5)
    assert [span.attributes["wanspec.pass.number"] for span in each] == [31, 32]
    assert {span.parent for span in each} == {sequence.id}
    assert each[0].ms == pytest.approx(8.0)
    assert sequence.resource["service.name"] == "wanspec-worker"
    WorkerTracer(TraceSettings(), "worker").ended(record)


@pytest.mark.parametrize("url", ["http://otel:4318/v1/traces", "https://[::1]/v1/traces", ""])
def test_urls(url):
    assert check_url("trace_url", url) == url


@pytest.mark.parametrize("url", ["otel:4318", "grpc://otel:4317", "http://", "http://otel:99999/", "http://otel:0/"])
def test_urls_that_are_none(url):
    with pytest.raises(ConfigError, match=r"trace_url: .* is not a URL of OTLP over HTTP"):
        check_url("trace_url", url)


def test_a_model_reads_what_the_repository_says():
    settings = TraceSettings("http://otel:4318/v1/traces", 0, 250.0, True)
    written = {name: str(value).lower() for name, value in trace_parameters(settings).items()}
    assert read_trace_settings(Parameters("wanspec", written)) == settings
    assert read_trace_settings(Parameters("wanspec", {})) == TraceSettings()
    with pytest.raises(ConfigError, match="trace_content: 'yes' is not true or false"):
        read_trace_settings(Parameters("wanspec", {"trace_content": "yes"}))


def test_triton_is_told_to_trace_or_not():
    assert trace_flags("", 5, "service", "region") == ()
    flags = trace_flags("http://otel:4318/v1/traces", 5, "service", "region")
    assert "--trace-config=rate=5" in flags
    assert "--trace-config=mode=opentelemetry" in flags


class _Request:
    def __init__(self, context):
        self._context = context

    def trace(self):
        return self

    def get_context(self):
        return self._context


TRITON, HEADER, OFF = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'c' * 16}-01", f"00-{'a' * 32}-{'c' * 16}-00"
OWN = json.dumps({"traceparent": TRITON})


@pytest.mark.parametrize(
    ("context", "header", "found"),
    [
        (None, "", ("", True)),
        (OWN, "", (TRITON, True)),
        (OWN, HEADER, (TRITON, True)),
        (OWN, OFF, (TRITON, False)),
        (None, HEADER, (HEADER, True)),
        (None, OFF, (OFF, False)),
        (OWN, "nonsense", (TRITON, True)),
        ("{}", "", ("", True)),
    ],
)
def test_what_a_request_is_part_of(context, header, found):
    assert trace_context(_Request(context), {"traceparent": header} if header else {}) == found
