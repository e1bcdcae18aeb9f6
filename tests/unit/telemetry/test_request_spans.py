from __future__ import annotations

import json
from itertools import pairwise

import pytest

from tests.unit.telemetry.trace_doubles import CALLER, OFFSET_NS, RESOURCE, received, record, rounds, summary
from wanspec.core.events import Finished, Request
from wanspec.core.rounds import Round, Step, StepKind
from wanspec.core.sampling import Sampling
from wanspec.telemetry.request_spans import request_spans, without_content

FAILED = Finished(
    1, "error", summary(finish_reason="error"), "target engine: token 4711 at 0", rounds=rounds(), submitted_ms=1_004.0
)


def spans_of(**changes):
    return received(request_spans(record(**changes), RESOURCE))


def named(spans, name):
    return [span for span in spans if span.name == name]


def test_the_tree_of_spans_has_no_gap():
    spans = spans_of()
    (request,) = named(spans, "wanspec.request")
    assert (request.trace, request.parent) == (CALLER.trace, f"{CALLER.span_id:016x}")
    parts = [span for span in spans if span.parent == request.id]
    assert [span.name for span in parts] == [
        "wanspec.tokenize",
        "wanspec.queue",
        "wanspec.round",
        "wanspec.round",
        "wanspec.round",
        "wanspec.respond",
    ]
    at = request.begin_ns
    assert at == 1_000_000_000 + OFFSET_NS
    for part in parts:
        assert part.begin_ns == at
        at = part.end_ns
    assert at == request.end_ns
    for each in named(spans, "wanspec.round"):
        steps = [span for span in spans if span.parent == each.id]
        assert steps[0].begin_ns == each.begin_ns
        assert steps[-1].end_ns == each.end_ns
        assert all(a.end_ns == b.begin_ns for a, b in pairwise(steps))
    assert len({span.id for span in spans}) == len(spans)


def test_a_round_says_what_it_did_and_why():
    spans = spans_of()
    one = named(spans, "wanspec.round")[1].attributes
    told = {name.removeprefix("wanspec.round."): value for name, value in one.items()}
    assert told == {
        "index": 1,
        "context_length": 4,
        "drafted": 2,
        "accepted": 1,
        "committed": 3,
        "draft_origins": ["remote", "local"],
        "origins": ["remote", "target"],
        "causes": ["wait for next drafts", "worker behind"],
        "local_draft_passes": 1,
        "waited_ms": 20.0,
        "network_ms": 15.0,
        "engine_queue_ms": 2.5,
        "gpu_ms": 31.5,
        "rtt_ms": 31.0,
        "rtt_estimate_ms": 30.0,
        "bytes_up": 35,
        "bytes_down": 60,
        "epoch": 1,
    }
    (wait,) = named(spans, "wanspec.wait")
    assert wait.attributes == {
        "wanspec.cause": "wait for next drafts",
        "wanspec.network_ms": 15.0,
        "wanspec.worker_ms": 5.0,
        "wanspec.score.verify": 1.5,
        "wanspec.score.wait": 1.75,
    }
    (draft,) = named(spans, "wanspec.draft.local")
    assert (draft.attributes["wanspec.gpu_ms"], draft.attributes["wanspec.engine_queue_ms"]) == (7.5, 0.5)


def test_faults_are_events_and_errors():
    *_, last = named(spans_of(), "wanspec.round")
    assert [name for _, name in last.events] == ["worker lost it: desync", "target failed"]
    assert last.events[0][0] == (1_004 + 95) * 1_000_000 + OFFSET_NS
    *_, verify = named(spans_of(), "wanspec.verify")
    assert (verify.failed, verify.message) == (True, "target engine")
    assert not any(span.failed for span in spans_of() if span.id != verify.id and span.name != "wanspec.verify")


def test_a_failed_local_draft_is_an_error():
    step = Step(StepKind.DRAFT, 0.0, 9.0, "draft engine: simulated fault")
    failed = Round(0, 3, 0.0, ended_ms=9.0, steps=(step,), events=((9.0, "local draft failed"),))
    spans = spans_of(finished=Finished(1, "length", summary(), rounds=(failed,), submitted_ms=1_004.0))
    (draft,) = named(spans, "wanspec.draft.local")
    assert (draft.failed, draft.message) == (True, "draft engine")


def test_a_failed_request():
    (request,) = named(spans_of(finished=FAILED, sampled="failed", parent=None, caller=CALLER), "wanspec.request")
    assert (request.failed, request.message, request.attributes["error.type"]) == (True, "target engine", "error")
    assert (request.parent, request.links) == ("", (f"{CALLER.span_id:016x}",))
    assert request.attributes["wanspec.sampled"] == "failed"


def test_a_refused_request_has_been_read_and_nothing_else():
    refused = Finished(0, "refused", {}, "input_ids: token 4711 at 0 is outside 0 to 99")
    spans = spans_of(finished=refused, request=None)
    assert [span.name for span in spans] == ["wanspec.request", "wanspec.tokenize"]
    assert (spans[0].failed, spans[0].message) == (True, "input_ids")
    assert spans[1].end_ns == spans[0].end_ns


def test_a_cancelled_request_is_no_failure():
    gone = Finished(1, "cancelled", summary(), "", rounds=rounds()[:2], submitted_ms=1_004.0)
    (request,) = named(spans_of(finished=gone), "wanspec.request")
    assert not request.failed
    assert request.attributes["gen_ai.response.finish_reasons"] == ["cancelled"]


def test_semantic_conventions_of_generative_ai():
    request = Request((1, 2, 3), 4, sampling=Sampling(0.8, 40, 0.95, (1 << 64) - 1))
    (span,) = named(spans_of(request=request, chat=True), "wanspec.request")
    given = {name: value for name, value in span.attributes.items() if name.startswith("gen_ai.")}
    assert given.pop("gen_ai.request.temperature") == pytest.approx(0.8)
    assert given == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "wanspec",
        "gen_ai.request.model": "wanspec",
        "gen_ai.response.model": "small-target",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.top_p": 0.95,
        "gen_ai.request.seed": -1,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ["length"],
    }
    (event,) = span.events
    assert event == ((1_004 + 36) * 1_000_000 + OFFSET_NS, "first token")


def test_no_token_and_no_text_leaves_unless_it_is_switched_on():
    secret = {1, 2, 3, 11, 12, 13, 14, 15, 4711}

    def numbers(spans):
        lists = (value for span in spans for value in span.attributes.values() if isinstance(value, list))
        return {number for values in lists for number in values if isinstance(number, int)}

    for finished in (None, FAILED):
        spans = spans_of(finished=finished)
        assert not numbers(spans) & secret
        text = json.dumps([[s.name, s.message, list(s.attributes.items()), s.events] for s in spans])
        assert "4711" not in text
        assert "<" not in text
        assert "talk" not in text

    spans = received(request_spans(record(), RESOURCE, lambda tokens: "".join(f"<{token}>" for token in tokens)))
    (request,) = named(spans, "wanspec.request")
    (asked,) = json.loads(request.attributes["gen_ai.input.messages"])
    (answer,) = json.loads(request.attributes["gen_ai.output.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "<1><2><3>"}]}
    assert (answer["parts"][0]["content"], answer["finish_reason"]) == ("<11><12><14><15>", "length")
    assert request.attributes["gen_ai.conversation.id"] == "talk"
    assert numbers(spans) == {11, 12, 13, 14, 15}
    *_, verify = named(spans, "wanspec.verify")
    assert "4711" in verify.message


def test_messages_without_content():
    assert without_content("input_ids: token 7 at 3 is outside 0 to 9") == "input_ids"
    assert without_content("the target did not answer within 60000 ms") == "the target did not answer within # ms"
    assert without_content("wait for next drafts") == "wait for next drafts"
    assert len(without_content("x" * 1000)) == 80
