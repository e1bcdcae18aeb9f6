"""The spans of one sequence in the idle region, below the request's. ``docs/traces.md`` lists every attribute."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from wanspec.core.workercounters import PassRecord, SequenceRecord
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.spans import SpanMaker, Value

_LOST = "lost: "


def sequence_spans(record: SequenceRecord, resource: Resource, offset_ns: int) -> list[ReadableSpan]:
    """Make the spans; none where the controller named no trace."""
    parent = TraceContext.parse(record.traceparent)
    if parent is None:
        return []
    maker = SpanMaker(resource, parent.trace_id, offset_ns)
    lost = record.ended.startswith(_LOST)
    values: dict[str, Value] = {
        "wanspec.worker.sequence": record.number,
        "wanspec.worker.epoch": record.epoch,
        "wanspec.worker.prompt_tokens": record.prompt_tokens,
        "wanspec.worker.prefilled_tokens": record.prefilled,
        "wanspec.worker.passes": len(record.passes),
        "wanspec.worker.gpu_ms": sum(each.engine_ms for each in record.passes),
        "wanspec.worker.ended": record.ended,
    }
    own = maker.add(
        "wanspec.worker.sequence",
        parent,
        record.opened_ms,
        record.ended_ms,
        values,
        events=[(record.ended_ms, record.ended)] if lost else (),
        error=record.ended if lost else None,
    )
    for each in record.passes:
        maker.add("wanspec.worker.pass", own, each.began_ms, each.ended_ms, _of(each))
    return maker.made


def _of(each: PassRecord) -> dict[str, Value]:
    return {
        "wanspec.pass.number": each.number,
        "wanspec.pass.gpu_ms": each.engine_ms,
        "wanspec.pass.queue_ms": each.queue_ms,
        "wanspec.pass.leaves": each.leaves,
        "wanspec.pass.batch_leaves": each.batch,
        "wanspec.pass.nodes": each.nodes,
    }
