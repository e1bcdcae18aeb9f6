"""Trace exports as timelines: OTLP JSON, as a collector's file exporter writes it (``docs/traces.md``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wanspec.core.rounds import Round, Step, StepKind
from wanspec.core.tree import Origin
from wanspec.errors import ProtocolError
from wanspec.report.timeline import UNKNOWN_TOKEN, Lane, Span, Timeline

_REQUEST, _ROUND, _PASS = "wanspec.request", "wanspec.round", "wanspec.worker.pass"
_SEQUENCE = "wanspec.worker.sequence"
_STEPS = {"wanspec.verify": StepKind.VERIFY, "wanspec.draft.local": StepKind.DRAFT, "wanspec.wait": StepKind.WAIT}
_ORIGINS = {origin.label: origin for origin in Origin}
_OWN = ("wanspec.tokenize", "wanspec.respond")
_SCORE = "wanspec.score."


@dataclass(slots=True)
class _Span:
    """A span of the export. Times in ns since the epoch."""

    name: str
    trace: str
    began: int
    ended: int
    values: dict[str, Any]
    events: list[tuple[int, str]]
    error: str
    children: list[_Span] = field(default_factory=list)

    def each(self, *names: str) -> list[_Span]:
        """Children of these names, in order of time."""
        return sorted((child for child in self.children if child.name in names), key=lambda child: child.began)

    @property
    def ms(self) -> float:
        return (self.ended - self.began) / 1e6


def read_traces(lines: Iterable[str], source: str) -> list[Timeline]:
    """Read the requests of a trace export: see :func:`read_trace_files`.

    Raises:
        ProtocolError: a line that is none; the message names it.
    """
    return read_trace_files({source: lines})


def read_trace_files(files: Mapping[str, Iterable[str]]) -> list[Timeline]:
    """Read the requests of trace exports. A trace's spans may lie in several: of both regions, or one after the other.

    Args:
        files: by what to call it, lines of JSON, an object with ``resourceSpans`` a line.

    Raises:
        ProtocolError: a line that is none; the message names it.
    """
    sources: dict[tuple[str, str], str] = {}
    spans: dict[tuple[str, str], _Span] = {}
    parents: dict[tuple[str, str], tuple[str, str]] = {}
    for source, number, line in ((name, at, line) for name, held in files.items() for at, line in enumerate(held, 1)):
        try:
            for raw in _spans_of(json.loads(line) if line.strip() else {}):
                key = raw["traceId"], raw["spanId"]
                spans[key] = _read_span(raw)
                sources[key] = source
                if raw.get("parentSpanId"):
                    parents[key] = raw["traceId"], raw["parentSpanId"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ProtocolError(f"{source}: trace export line {number}: {what}") from error
    for key, parent in parents.items():
        if parent in spans:
            spans[parent].children.append(spans[key])
    requests = [(span.began, key) for key, span in spans.items() if span.name == _REQUEST]
    return [_timeline(spans[key], sources[key], number) for number, (_, key) in enumerate(sorted(requests))]


def _spans_of(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in entry.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            yield from scope.get("spans", ())


def _read_span(raw: Mapping[str, Any]) -> _Span:
    status = raw.get("status", {})
    failed = status.get("code") in (2, "STATUS_CODE_ERROR")
    return _Span(
        raw["name"],
        raw["traceId"],
        int(raw["startTimeUnixNano"]),
        int(raw["endTimeUnixNano"]),
        {item["key"]: _value(item.get("value", {})) for item in raw.get("attributes", ())},
        [(int(event["timeUnixNano"]), event["name"]) for event in raw.get("events", ())],
        (status.get("message") or "failed") if failed else "",
    )


def _value(given: Mapping[str, Any]) -> Any:
    for kind, value in given.items():
        if kind == "intValue":
            return int(value)
        if kind == "arrayValue":
            return [_value(each) for each in value.get("values", ())]
        return float(value) if kind == "doubleValue" else value
    return None


def _timeline(span: _Span, source: str, number: int) -> Timeline:
    values = span.values
    rounds = [_round(each, span) for each in span.each(_ROUND)]
    known = {name.removeprefix("wanspec."): value for name, value in values.items() if name.startswith("wanspec.")}
    first = next((at for at, what in span.events if what == "first token"), None)
    sequences = span.each(_SEQUENCE)
    passes = [each for sequence in sequences for each in sequence.each(_PASS)]
    return Timeline(
        name=f"request {number}",
        source=source,
        policy=str(known.get("policy", "")),
        reason=", ".join(values.get("gen_ai.response.finish_reasons", ())),
        at_ms=span.began / 1e6,
        latency_ms=span.ms,
        ttft_ms=None if first is None else (first - span.began) / 1e6,
        queued_ms=sum(each.ms for each in span.each("wanspec.queue")),
        own_ms=sum(each.ms for each in span.each(*_OWN)),
        tokens=[token for each in rounds for token in each.committed],
        origins=[origin for each in span.each(_ROUND) for origin in _origins(each, "wanspec.round.origins")],
        prompt_tokens=int(values.get("gen_ai.usage.input_tokens", 0)),
        rounds=rounds,
        spans=sorted([*_commits(rounds), *_passes(passes, rounds, span)], key=lambda each: each.began_ms),
        summary={**known, "rtt_ms": next((each.rtt_ms for each in reversed(rounds) if each.rtt_ms is not None), None)},
        error=span.error,
        text=_said(values.get("gen_ai.output.messages")),
        prompt_text=_said(values.get("gen_ai.input.messages")),
        trace=span.trace,
    )


def _round(span: _Span, request: _Span) -> Round:
    values = {name.removeprefix("wanspec.round."): value for name, value in span.values.items()}
    steps = [_step(each, request) for each in span.each(*_STEPS)]
    return Round(
        values.get("index", 0),
        values.get("context_length", 0),
        _since(span.began, request),
        ended_ms=_since(span.ended, request),
        drafted=_tokens(values.get("draft_tokens"), values.get("drafted", 0)),
        origins=_origins(span, "wanspec.round.draft_origins"),
        accepted=values.get("accepted", 0),
        committed=_tokens(values.get("tokens"), values.get("committed", 0)),
        local_passes=values.get("local_draft_passes", 0),
        waited_ms=values.get("waited_ms", 0.0),
        causes=tuple(values.get("causes", ())),
        engine_ms=sum(step.engine_ms for step in steps if step.kind is StepKind.VERIFY),
        steps=tuple(steps),
        events=tuple((_since(at, request), what) for at, what in span.events),
        rtt_ms=values.get("rtt_estimate_ms"),
        epoch=values.get("epoch", 0),
        bytes_up=values.get("bytes_up", 0),
        bytes_down=values.get("bytes_down", 0),
    )


def _step(span: _Span, request: _Span) -> Step:
    values = span.values
    scores = ((name.removeprefix(_SCORE), score) for name, score in values.items() if name.startswith(_SCORE))
    return Step(
        _STEPS[span.name],
        _since(span.began, request),
        _since(span.ended, request),
        span.error or values.get("wanspec.cause", ""),
        tuple(scores),
        values.get("wanspec.gpu_ms", 0.0),
        values.get("wanspec.network_ms", 0.0),
        values.get("wanspec.worker_ms", 0.0),
        # Of a call that failed, a span does not say how long the engine worked.
        _STEPS[span.name] is not StepKind.WAIT and "wanspec.gpu_ms" not in values,
    )


def _commits(rounds: list[Round]) -> Iterator[Span]:
    """Traces have no messages: a round's commit leaves at its end."""
    for each in rounds:
        if each.epoch and each.committed and each.rtt_ms is not None:
            values = {"tokens": len(each.committed), "epoch": each.epoch}
            yield Span(Lane.UP, "commit", each.ended_ms, each.ended_ms + each.rtt_ms / 2.0, values)


def _passes(spans: list[_Span], rounds: list[Round], request: _Span) -> Iterator[Span]:
    """Passes of the worker on its own clock, and the drafts that left after each."""
    rtt = next((each.rtt_ms for each in reversed(rounds) if each.rtt_ms is not None), None)
    for each in spans:
        values = {name.removeprefix("wanspec.pass."): value for name, value in each.values.items()}
        told = {
            "engine ms": values.get("gpu_ms", 0.0),
            "queue ms": values.get("queue_ms", 0.0),
            **{name.replace("_", " "): values[name] for name in ("leaves", "batch_leaves", "nodes") if name in values},
        }
        ended = _since(each.ended, request)
        yield Span(Lane.WORKER, "pass", _since(each.began, request), ended, told)
        if rtt is not None and values.get("nodes"):
            yield Span(Lane.DOWN, "drafts", ended, ended + rtt / 2.0, {"draft tokens": values["nodes"]})


def _tokens(given: list[int] | None, count: int) -> tuple[int, ...]:
    return (UNKNOWN_TOKEN,) * count if given is None else tuple(given)


def _origins(span: _Span, name: str) -> tuple[Origin, ...]:
    return tuple(_ORIGINS.get(label, Origin.TARGET) for label in span.values.get(name, ()))


def _since(at: int, request: _Span) -> float:
    return (at - request.began) / 1e6


def _said(messages: str | None) -> str:
    """The text of messages, as the semantic conventions encode them."""
    if not messages:
        return ""
    try:
        parts = [part for message in json.loads(messages) for part in message.get("parts", ())]
        return "".join(part.get("content", "") for part in parts)
    except (ValueError, AttributeError, TypeError):  # such as one that a collector has shortened
        return messages
