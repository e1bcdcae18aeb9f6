"""The spans that tracing makes, as the report reads them: names and attributes agree."""

from __future__ import annotations

import json

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common import trace_encoder as encoder
from opentelemetry.sdk.resources import Resource

from tests.unit.report.report_doubles import play
from wanspec.core import workercounters as counters
from wanspec.core.events import Request
from wanspec.report.logs import read_event_log
from wanspec.report.otlp import read_traces
from wanspec.report.timeline import PARTS, UNKNOWN_TOKEN, Lane
from wanspec.telemetry import context as contexts
from wanspec.telemetry import records, request_spans, worker_spans

BEFORE_MS, AFTER_MS, OFFSET_NS = 2.0, 1.0, 10**18


def lines_of(spans):
    """As a collector's file exporter has them, but for the encoding of ids."""
    return [json.dumps(MessageToDict(encoder.encode_spans([span]))) for span in reversed(spans)]


@pytest.mark.parametrize("content", [True, False])
def test_a_trace_tells_what_the_log_tells(content):
    played = play(["adaptive"])
    (timeline,), _ = read_event_log(played.lines, "log")
    finished, context = played.world.outputs[0].finished, contexts.TraceContext.new()
    at, asked = finished.submitted_ms, Request((5, 6, 7), 40)
    began, ended = at - BEFORE_MS, at + timeline.latency_ms + AFTER_MS
    of = (context, None, None, "head", "wanspec", "target", began, ended, OFFSET_NS, finished, asked)
    decode = (lambda tokens: " ".join(map(str, tokens))) if content else None
    spans = request_spans.request_spans(records.RequestRecord(*of), Resource({}), decode)
    drafted = counters.SequenceRecord(0, 1, str(context), at + 15.0, ended)
    for span in timeline.spans:
        if span.lane is Lane.WORKER:
            times = span.began_ms + at, span.ended_ms + at, span.values["engine ms"], 0.0
            drafted.add(counters.PassRecord(*times, leaves=3, nodes=5))
    spans += worker_spans.sequence_spans(drafted, Resource({}), OFFSET_NS)
    (found,) = read_traces(lines_of(spans), "traces.jsonl")
    for name, mine, theirs in zip(PARTS, found.parts, timeline.parts, strict=True):
        more = BEFORE_MS + AFTER_MS if name == "endpoint" else 0.0
        assert mine == pytest.approx(theirs + more, abs=0.01), name
    assert (found.policy, found.reason, found.prompt_tokens) == ("adaptive", "length", 3)
    assert found.ttft_ms == pytest.approx(timeline.ttft_ms + BEFORE_MS, abs=0.01)
    assert found.origins == timeline.origins
    assert found.tokens == (timeline.tokens if content else [UNKNOWN_TOKEN] * 40)
    assert found.text == (" ".join(map(str, timeline.tokens)) if content else "")
    for mine, theirs in zip(found.rounds, timeline.rounds, strict=True):
        assert (mine.index, mine.length, mine.accepted) == (theirs.index, theirs.length, theirs.accepted)
        assert mine.origins == theirs.origins
        assert [what for _, what in mine.events] == [what for _, what in theirs.events]
        assert [(each.kind, each.cause) for each in mine.steps] == [(each.kind, each.cause) for each in theirs.steps]
        assert [dict(each.scores) for each in mine.steps] == [dict(each.scores) for each in theirs.steps]
    for name in ("rounds", "drafted_remote", "accepted_remote", "local_draft_passes", "bytes_up"):
        assert found.summary[name] == timeline.summary[name]
    passes = [[each for each in of.spans if each.lane is Lane.WORKER] for of in (found, timeline)]
    assert len(passes[0]) == len(passes[1]) > 5
    for mine, theirs in zip(*passes, strict=True):
        assert mine.began_ms == pytest.approx(theirs.began_ms + BEFORE_MS, abs=0.01)
        assert mine.values["engine ms"] == theirs.values["engine ms"]
