"""Trace exports as timelines: the same rounds and parts as from the event log of the same request."""

from __future__ import annotations

import json

import pytest

from tests.unit.report.report_doubles import RTT_MS, play
from wanspec.core.rounds import StepKind
from wanspec.core.tree import Origin
from wanspec.report.inputs import read_inputs
from wanspec.report.logs import read_event_log
from wanspec.report.otlp import read_traces
from wanspec.report.timeline import PARTS, UNKNOWN_TOKEN, Lane

EPOCH_NS = 1_700_000_000_000_000_000
BEFORE_MS, AFTER_MS = 2.0, 1.0
NAMES = {StepKind.VERIFY: "wanspec.verify", StepKind.DRAFT: "wanspec.draft.local", StepKind.WAIT: "wanspec.wait"}


def value(given):
    if isinstance(given, bool):
        return {"boolValue": given}
    if isinstance(given, int):
        return {"intValue": str(given)}
    if isinstance(given, float):
        return {"doubleValue": given}
    if isinstance(given, (list, tuple)):
        return {"arrayValue": {"values": [value(each) for each in given]}}
    return {"stringValue": given}


class Export:
    """Spans as a collector's file exporter writes them; times in ms after the request was submitted."""

    def __init__(self):
        self.spans = []

    def add(self, name, parent, began, ended, attributes=(), events=(), status=None):
        number = f"{len(self.spans) + 1:016x}"
        self.spans.append(
            {
                "traceId": "ab" * 16,
                "spanId": number,
                "parentSpanId": parent,
                "name": name,
                "startTimeUnixNano": str(self.ns(began)),
                "endTimeUnixNano": str(self.ns(ended)),
                "attributes": [{"key": key, "value": value(given)} for key, given in dict(attributes).items()],
                "events": [{"timeUnixNano": str(self.ns(at)), "name": what} for at, what in events],
                "status": status or {},
            }
        )
        return number

    @staticmethod
    def ns(ms):
        return EPOCH_NS + round(ms * 1e6)

    def lines(self):
        """A line for each span, and not in the order of time: regions export apart."""
        return [
            json.dumps({"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]})
            for span in reversed(self.spans)
        ]


def exported(timeline, *, content):
    """The spans of ``docs/traces.md`` of a request, whose times and rounds are those of its event log."""
    export, end = Export(), timeline.latency_ms
    own = export.add(
        "wanspec.request",
        "00" * 8,
        -BEFORE_MS,
        end + AFTER_MS,
        {
            "wanspec.policy": timeline.policy,
            "wanspec.rounds": len(timeline.rounds),
            "wanspec.drafted_remote": timeline.summary["drafted_remote"],
            "gen_ai.usage.input_tokens": timeline.prompt_tokens,
            "gen_ai.response.finish_reasons": [timeline.reason],
            **({"gen_ai.output.messages": json.dumps([{"parts": [{"content": "the text"}]}])} if content else {}),
        },
        [(timeline.ttft_ms, "first token")],
    )
    export.add("wanspec.tokenize", own, -BEFORE_MS, 0.0)
    export.add("wanspec.respond", own, end, end + AFTER_MS)
    for each in timeline.rounds:
        labels = [origin.label for origin in each.origins]
        committed = [*labels[: each.accepted], "target"][: len(each.committed)]
        values = {
            "index": each.index,
            "context_length": each.length,
            "drafted": len(each.drafted),
            "accepted": each.accepted,
            "committed": len(each.committed),
            "draft_origins": labels,
            "origins": committed,
            "epoch": each.epoch,
            **({} if each.rtt_ms is None else {"rtt_estimate_ms": each.rtt_ms}),
            **({"draft_tokens": each.drafted, "tokens": each.committed} if content else {}),
        }
        named = {f"wanspec.round.{name}": given for name, given in values.items()}
        parent = export.add("wanspec.round", own, each.began_ms, each.ended_ms, named, each.events)
        for step in each.steps:
            known = {f"wanspec.score.{name}": score for name, score in step.scores} | {"wanspec.cause": step.cause}
            known |= {"wanspec.gpu_ms": step.engine_ms}
            if step.kind is StepKind.WAIT:
                known = {**known, "wanspec.network_ms": step.network_ms, "wanspec.worker_ms": step.worker_ms}
            export.add(NAMES[step.kind], parent, step.began_ms, step.ended_ms, known)
    drafting = export.add("wanspec.worker.sequence", own, 15.0, end)
    for span in timeline.spans:
        if span.lane is Lane.WORKER:
            seen = {"gpu_ms": span.values["engine ms"], "queue_ms": 0.0, "leaves": 3, "batch_leaves": 3, "nodes": 5}
            of = {f"wanspec.pass.{name}": given for name, given in seen.items()}
            export.add("wanspec.worker.pass", drafting, span.began_ms, span.ended_ms, of)
    return export


@pytest.fixture(scope="module")
def timeline():
    (found,), _ = read_event_log(play(["adaptive"]).lines, "log")
    return found


@pytest.mark.parametrize("content", [True, False])
def test_a_trace_tells_what_the_log_tells(timeline, content):
    (found,) = read_traces(exported(timeline, content=content).lines(), "traces.jsonl")
    assert (found.policy, found.reason, found.trace) == ("adaptive", "length", "ab" * 16)
    assert (found.prompt_tokens, found.summary["rounds"]) == (3, len(timeline.rounds))
    assert found.ttft_ms == pytest.approx(timeline.ttft_ms + BEFORE_MS, abs=0.01)
    for name, mine, theirs in zip(PARTS, found.parts, timeline.parts, strict=True):
        assert mine == pytest.approx(theirs + (BEFORE_MS + AFTER_MS if name == "endpoint" else 0.0), abs=0.01)
    assert [each.origins for each in found.rounds] == [each.origins for each in timeline.rounds]
    assert found.origins == timeline.origins
    assert [len(each.committed) for each in found.rounds] == [len(each.committed) for each in timeline.rounds]
    assert (found.tokens == timeline.tokens) is content
    assert (set(found.tokens) == {UNKNOWN_TOKEN}) is not content
    assert found.text == ("the text" if content else "")
    scores = [[dict(step.scores) for step in each.steps] for each in found.rounds]
    assert scores == [[dict(step.scores) for step in each.steps] for each in timeline.rounds]
    assert [what for _, what in found.events] == [what for _, what in timeline.events]


def test_what_crossed_the_wan_is_drawn_from_rounds_and_passes(timeline):
    (found,) = read_traces(exported(timeline, content=False).lines(), "traces.jsonl")
    lanes = [[span for span in found.spans if span.lane is lane] for lane in Lane]
    ups, downs, passes = lanes
    assert len(passes) == len(downs) == sum(span.lane is Lane.WORKER for span in timeline.spans)
    for span in (*ups, *downs):
        assert span.ended_ms - span.began_ms == pytest.approx(RTT_MS / 2, rel=0.02)
    ends = [each.ended_ms + BEFORE_MS for each in timeline.rounds if each.rtt_ms is not None]
    assert [span.began_ms for span in ups] == pytest.approx(ends, abs=0.01)


def test_a_failed_span_says_why(timeline):
    export = exported(timeline, content=False)
    export.spans[0]["status"] = {"code": 2, "message": "target engine"}
    verify = next(span for span in export.spans if span["name"] == "wanspec.verify")
    verify["status"] = {"code": "STATUS_CODE_ERROR"}
    (found,) = read_traces(export.lines(), "traces.jsonl")
    assert (found.error, found.rounds[0].steps[0].cause) == ("target engine", "failed")


def test_an_export_is_known_as_a_file(timeline, tmp_path):
    lines = exported(timeline, content=False).lines()
    (tmp_path / "traces.jsonl").write_text("\n".join(lines))
    other = json.dumps({"resourceSpans": [], "other": 1}, indent=1)  # one object over several lines
    (tmp_path / "one.json").write_text(other)
    found = read_inputs([tmp_path / "traces.jsonl", tmp_path / "one.json"])
    assert [each.source for each in found.timelines] == ["traces.jsonl"]
    assert "traces hold no messages" in found.notes[0]
    assert {origin for each in found.timelines for origin in each.origins} <= set(Origin)


def test_a_trace_whose_spans_lie_in_two_files_is_whole(timeline, tmp_path):
    lines = exported(timeline, content=False).lines()
    (tmp_path / "one.jsonl").write_text("\n".join(lines) + "\n")
    (whole,) = read_inputs([tmp_path / "one.jsonl"]).timelines
    assert len(lines) > 1
    (tmp_path / "scarce.jsonl").write_text("\n".join(lines[::2]) + "\n")
    (tmp_path / "idle.jsonl").write_text("\n".join(lines[1::2]) + "\n" + lines[0][:40])  # it is still written to
    (parted,) = read_inputs([tmp_path / "scarce.jsonl", tmp_path / "idle.jsonl"]).timelines
    assert (parted.rounds, parted.spans) == (whole.rounds, whole.spans)


def test_a_failed_calls_time_is_not_taken_for_tritons_queue(timeline):
    export = exported(timeline, content=False)
    verify = next(span for span in export.spans if span["name"] == "wanspec.verify")
    verify["attributes"] = [each for each in verify["attributes"] if each["key"] != "wanspec.gpu_ms"]
    (found,) = read_traces(export.lines(), "traces.jsonl")
    (whole,) = read_traces(exported(timeline, content=False).lines(), "traces.jsonl")
    assert found.rounds[0].steps[0].failed
    assert not any(step.failed for each in whole.rounds for step in each.steps)
    assert found.parts[PARTS.index("queue")] <= whole.parts[PARTS.index("queue")] + 1e-6
