"""W3C Trace Context: which trace a span belongs to, and whether it is recorded (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace

TRACEPARENT = "traceparent"
"""Header of HTTP and gRPC."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span's place in a trace. Ids are not zero: ``trace_id`` has 128 bits, ``span_id`` 64."""

    trace_id: int
    span_id: int
    sampled: bool = True

    @classmethod
    def new(cls, *, sampled: bool = True) -> TraceContext:
        """The first span of a trace."""
        return cls(_random(128), new_span_id(), sampled)

    @classmethod
    def parse(cls, traceparent: str) -> TraceContext | None:
        """Read a ``traceparent``; None for one that has to be ignored."""
        found = _FORM.fullmatch(traceparent)
        if found is None:
            return None
        version, trace, span, flags, more = found.groups()
        known = cls(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))
        malformed = version == "ff" or (version == "00" and more is not None)
        return None if malformed or not known.trace_id or not known.span_id else known

    def child(self) -> TraceContext:
        """A new span of the same trace."""
        return replace(self, span_id=new_span_id())

    @property
    def trace(self) -> str:
        """The trace's id as backends show it."""
        return f"{self.trace_id:032x}"

    def __str__(self) -> str:
        """As a ``traceparent``."""
        return f"00-{self.trace}-{self.span_id:016x}-{'01' if self.sampled else '00'}"


def new_span_id() -> int:
    """A random one."""
    return _random(64)


def _random(bits: int) -> int:
    return secrets.randbits(bits) or 1
