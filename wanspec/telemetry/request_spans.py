"""The spans of one request in the scarce region. ``docs/traces.md`` lists every attribute; a test compares the two."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from wanspec.core.events import Finished, Request
from wanspec.core.rounds import Round, Step, StepKind
from wanspec.core.tree import Origin
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.records import RequestRecord
from wanspec.telemetry.spans import SpanMaker, Value, score_attributes

Decode = Callable[[Sequence[int]], str]

_NAMES = {StepKind.VERIFY: "wanspec.verify", StepKind.DRAFT: "wanspec.draft.local", StepKind.WAIT: "wanspec.wait"}
_FAILED_DRAFT = "local draft failed"
_SUMMED = (
    "rounds",
    "waits",
    "wait_timeouts",
    "drafted_remote",
    "accepted_remote",
    "drafted_local",
    "accepted_local",
    "local_draft_passes",
    "remote_draft_passes",
    "remote_passes_used",
    "bytes_up",
    "bytes_down",
    "epochs",
    "desyncs",
    "queued_ms",
    "waited_ms",
    "ttft_ms",
)
"""Figures of the summary that the request's span has under the same names."""
_LONGEST = 80


def request_spans(record: RequestRecord, resource: Resource, decode: Decode | None = None) -> list[ReadableSpan]:
    """Make the spans. ``decode``: turns tokens into text, and has both in the spans; None for neither."""
    return _RequestSpans(record, SpanMaker(resource, record.context.trace_id, record.offset_ns), decode).make()


def without_content(message: str) -> str:
    """What an error is about, without what was given: that may be tokens or text of the request."""
    return re.sub(r"\d+", "#", message.partition(":")[0])[:_LONGEST]


class _RequestSpans:
    def __init__(self, record: RequestRecord, maker: SpanMaker, decode: Decode | None) -> None:
        self._record = record
        self._maker = maker
        self._decode = decode
        self._content = decode is not None

    def make(self) -> list[ReadableSpan]:
        record, finished = self._record, self._record.finished
        began = finished.submitted_ms or record.answered_ms  # a request that was refused has only been read
        first = finished.summary.get("ttft_ms")
        own = self._maker.add(
            "wanspec.request",
            record.parent,
            record.arrived_ms,
            record.answered_ms,
            self._attributes(),
            context=record.context,
            events=[(began + first, "first token")] if isinstance(first, float) else (),
            links=() if record.caller is None else [record.caller],
            error=self._message(finished.error) if _failed(finished) else None,
        )
        self._part("wanspec.tokenize", own, record.arrived_ms, began)
        if not finished.submitted_ms:
            return self._maker.made
        queued = finished.summary["queued_ms"]
        assert isinstance(queued, float)
        if queued > 0.0:
            self._part("wanspec.queue", own, began, began + queued)
        for each in finished.rounds:
            self._round(each, own, began)
        done = finished.rounds[-1].ended_ms if finished.rounds else queued
        self._part("wanspec.respond", own, began + done, record.answered_ms)
        return self._maker.made

    def _part(self, name: str, parent: TraceContext, began_ms: float, ended_ms: float) -> None:
        self._maker.add(name, parent, began_ms, ended_ms, {})

    def _message(self, error: str) -> str:
        return error if self._content else without_content(error)

    def _attributes(self) -> dict[str, Value]:
        record, request, finished = self._record, self._record.request, self._record.finished
        summary = finished.summary
        values: dict[str, Value] = {
            "gen_ai.operation.name": "chat" if record.chat else "text_completion",
            "gen_ai.provider.name": "wanspec",
            "gen_ai.request.model": record.model,
            "gen_ai.response.model": record.target,
            "gen_ai.response.finish_reasons": [finished.reason],
            "error.type": finished.reason if _failed(finished) else None,
            "wanspec.sampled": record.sampled,
        }
        if request is not None:
            values |= _asked(request)
        if summary:
            tokens = summary["output_tokens"]
            assert isinstance(tokens, int)
            values |= {
                "gen_ai.usage.output_tokens": tokens,
                "wanspec.policy": str(summary["policy"]),
                "wanspec.regime": str(summary["regime"]) or None,
                "wanspec.gpu_ms": sum(step.engine_ms for each in finished.rounds for step in each.steps),
                "wanspec.network_ms": sum(each.network_ms for each in finished.rounds),
                "wanspec.engine_queue_ms": sum(each.queued_ms for each in finished.rounds),
            }
            values |= {f"wanspec.{name}": summary[name] for name in _SUMMED}  # type: ignore[misc]
        return values | self._texts()

    def _texts(self) -> dict[str, Value]:
        request, finished = self._record.request, self._record.finished
        if self._decode is None or request is None:
            return {}
        tokens = [token for each in finished.rounds for token in each.committed]
        asked = _message_of("user", self._decode(request.prompt))
        answer = _message_of("assistant", self._decode(tokens)) | {"finish_reason": finished.reason}
        return {
            "gen_ai.input.messages": json.dumps([asked], ensure_ascii=False),
            "gen_ai.output.messages": json.dumps([answer], ensure_ascii=False),
            "gen_ai.conversation.id": request.conversation or None,
        }

    def _round(self, each: Round, parent: TraceContext, began_ms: float) -> None:
        origins = (*each.origins[: each.accepted], Origin.TARGET)[: len(each.committed)]
        values: dict[str, Value] = {
            "wanspec.round.index": each.index,
            "wanspec.round.context_length": each.length,
            "wanspec.round.drafted": len(each.drafted),
            "wanspec.round.accepted": each.accepted,
            "wanspec.round.committed": len(each.committed),
            "wanspec.round.draft_origins": [origin.label for origin in each.origins],
            "wanspec.round.origins": [origin.label for origin in origins],
            "wanspec.round.causes": [self._message(cause) for cause in each.causes],
            "wanspec.round.local_draft_passes": each.local_passes,
            "wanspec.round.waited_ms": each.waited_ms,
            "wanspec.round.network_ms": each.network_ms,
            "wanspec.round.engine_queue_ms": each.queued_ms,
            "wanspec.round.gpu_ms": sum(step.engine_ms for step in each.steps),
            "wanspec.round.rtt_ms": each.measured_rtt_ms,
            "wanspec.round.rtt_estimate_ms": each.rtt_ms,
            "wanspec.round.bytes_up": each.bytes_up,
            "wanspec.round.bytes_down": each.bytes_down,
            "wanspec.round.epoch": each.epoch,
        }
        if self._content:
            values |= {
                "wanspec.round.draft_tokens": list(each.drafted),
                "wanspec.round.tokens": list(each.committed),
            }
        events = [(began_ms + at, what) for at, what in each.events]
        begin, end = began_ms + each.began_ms, began_ms + each.ended_ms
        own = self._maker.add("wanspec.round", parent, begin, end, values, events=events)
        for step in each.steps:
            self._step(step, each, own, began_ms)

    def _step(self, step: Step, each: Round, parent: TraceContext, began_ms: float) -> None:
        cause, begin, end = self._message(step.cause) or None, began_ms + step.began_ms, began_ms + step.ended_ms
        values: dict[str, Value] = {"wanspec.cause": cause}
        if step.kind is StepKind.WAIT:
            values |= {"wanspec.network_ms": step.network_ms, "wanspec.worker_ms": step.worker_ms}
        elif not step.failed:
            values |= {"wanspec.gpu_ms": step.engine_ms, "wanspec.engine_queue_ms": step.queued_ms}
        failed = step.kind is StepKind.VERIFY and step.cause not in ("", "cancelled")
        failed |= step.kind is StepKind.DRAFT and (step.ended_ms, _FAILED_DRAFT) in each.events
        values |= score_attributes(step.scores)
        self._maker.add(_NAMES[step.kind], parent, begin, end, values, error=cause if failed else None)


def _failed(finished: Finished) -> bool:
    return bool(finished.error) and finished.reason != "cancelled"


def _asked(request: Request) -> dict[str, Value]:
    sampling, options = request.sampling, request.options
    return {
        "gen_ai.usage.input_tokens": len(request.prompt),
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_k": sampling.top_k or None,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.seed": None if sampling.greedy else _signed(sampling.seed),
        "gen_ai.request.presence_penalty": options.presence_penalty,
        "gen_ai.request.frequency_penalty": options.frequency_penalty,
    }


def _signed(seed: int) -> int:
    """OTLP's numbers have 64 bits with a sign, seeds have 64 without."""
    return seed - (1 << 64) if seed >> 63 else seed


def _message_of(role: str, text: str) -> dict[str, object]:
    """A message as the semantic conventions have it."""
    return {"role": role, "parts": [{"type": "text", "content": text}]}
