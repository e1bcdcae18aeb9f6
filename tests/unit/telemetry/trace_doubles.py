"""What tests of traces share: a record of a request of known times, and its spans as a collector gets them."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from wanspec.core.events import Finished, Request
from wanspec.core.rounds import Round, Step, StepKind, Tally
from wanspec.core.tree import Origin
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.export import resource_of
from wanspec.telemetry.receiver import read_spans
from wanspec.telemetry.records import RequestRecord
from wanspec.telemetry.spans import SpanMaker

RESOURCE = resource_of("wanspec-controller", "instance", "scarce")
OFFSET_NS = 1_700_000_000_000_000_000
ARRIVED_MS, SUBMITTED_MS = 1_000.0, 1_004.0
CALLER = TraceContext(0xABC, 0xDEF)


def maker(resource=RESOURCE):
    return SpanMaker(resource, 0xABC, OFFSET_NS)


def received(spans):
    """As a collector sees them."""
    return read_spans(encode_spans(spans).SerializeToString())


def summary(**values):
    figures = {
        "policy": "adaptive",
        "regime": "worker",
        "finish_reason": "length",
        "prompt_tokens": 3,
        "output_tokens": 4,
        "queued_ms": 6.0,
        "latency_ms": 100.0,
        "ttft_ms": 36.0,
        "rtt_ms": 30.0,
        "pass_ms": 5.0,
        "seed": None,
        **Tally().as_dict(),
    }
    return figures | values


def rounds():
    """Three: the prefill; one that waited, drafted and verified; one that failed."""
    scores = (("verify", 1.5), ("wait", 1.75))
    return (
        Round(
            0,
            3,
            6.0,
            ended_ms=36.0,
            committed=(11,),
            steps=(Step(StepKind.VERIFY, 6.0, 36.0, engine_ms=25.0),),
            events=((6.0, "worker opens it"),),
            bytes_up=120,
        ),
        Round(
            1,
            4,
            36.0,
            ended_ms=90.0,
            drafted=(12, 13),
            origins=(Origin.REMOTE, Origin.LOCAL),
            accepted=1,
            committed=(12, 14, 15),
            local_passes=1,
            waited_ms=20.0,
            causes=("wait for next drafts", "worker behind"),
            engine_ms=24.0,
            steps=(
                Step(StepKind.WAIT, 36.0, 56.0, "wait for next drafts", scores, 0.0, 15.0, 5.0),
                Step(StepKind.DRAFT, 56.0, 64.0, "worker behind", scores, 7.5),
                Step(StepKind.VERIFY, 64.0, 90.0, "", scores, 24.0),
            ),
            rtt_ms=30.0,
            measured_rtt_ms=31.0,
            epoch=1,
            bytes_up=35,
            bytes_down=60,
        ),
        Round(
            2,
            7,
            90.0,
            ended_ms=100.0,
            steps=(Step(StepKind.VERIFY, 90.0, 100.0, "target engine: token 4711 at 0 is outside 0 to 99"),),
            events=((95.0, "worker lost it: desync"), (100.0, "target failed")),
        ),
    )


def record(**changes):
    """A request of 3 tokens and 4 of an answer: read for 4 ms, queued for 6, answered 2 ms after its last round."""
    finished = changes.pop("finished", None) or Finished(
        1, "length", summary(), rounds=rounds(), submitted_ms=SUBMITTED_MS
    )
    values = {
        "context": CALLER.child(),
        "parent": CALLER,
        "caller": None,
        "sampled": "head",
        "model": "wanspec",
        "target": "small-target",
        "arrived_ms": ARRIVED_MS,
        "answered_ms": SUBMITTED_MS + 102.0,
        "offset_ns": OFFSET_NS,
        "finished": finished,
        "request": Request((1, 2, 3), 4, conversation="talk"),
    }
    return RequestRecord(**(values | changes))
