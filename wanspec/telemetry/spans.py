"""Spans with times and ids of our own: a request is traced after its end, from the record of what it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from wanspec import __version__
from wanspec.core.rounds import Scores
from wanspec.telemetry.context import TraceContext

Value: TypeAlias = str | bool | int | float | Sequence[str] | Sequence[int] | None

_SCOPE = InstrumentationScope("wanspec", __version__)


class SpanMaker:
    """Makes the spans of one trace, as one process saw it.

    Attributes:
        made: the spans so far.
    """

    def __init__(self, resource: Resource, trace_id: int, offset_ns: int) -> None:
        """``offset_ns``: what is added to ``time.monotonic_ns`` for the time since the epoch."""
        self.made: list[ReadableSpan] = []
        self._resource = resource
        self._trace_id = trace_id
        self._offset_ns = offset_ns

    def add(
        self,
        name: str,
        parent: TraceContext | None,
        began_ms: float,
        ended_ms: float,
        attributes: Mapping[str, Value],
        *,
        context: TraceContext | None = None,
        events: Iterable[tuple[float, str]] = (),
        links: Iterable[TraceContext] = (),
        error: str | None = None,
    ) -> TraceContext:
        """Add a span.

        Args:
            name: of the span.
            parent: the span it is part of; None for the first.
            began_ms, ended_ms: on the clock of ``time.monotonic``.
            attributes: those that are None are left out.
            context: the span's own, where it is known already.
            events: (ms, name).
            links: other spans.
            error: what failed; None where nothing did.

        Returns:
            The span's context.
        """
        own = context or (parent.child() if parent else TraceContext(self._trace_id, TraceContext.new().span_id))
        self.made.append(
            ReadableSpan(
                name,
                context=_context(own),
                parent=None if parent is None else _context(parent),
                resource=self._resource,
                attributes={name: value for name, value in attributes.items() if value is not None},
                events=[Event(what, timestamp=self._ns(at)) for at, what in events],
                links=[Link(_context(other)) for other in links],
                status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error),
                start_time=self._ns(began_ms),
                end_time=self._ns(max(began_ms, ended_ms)),
                instrumentation_scope=_SCOPE,
            )
        )
        return own

    def _ns(self, ms: float) -> int:
        return int(ms * 1e6) + self._offset_ns


def score_attributes(scores: Scores) -> dict[str, Value]:
    """What a policy expected of each option."""
    return {f"wanspec.score.{option}": value for option, value in scores}


def _context(of: TraceContext) -> SpanContext:
    return SpanContext(of.trace_id, of.span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
