"""Traces of a region: parameters of our models, and the flags of Triton for its own spans. One setting drives both."""

from __future__ import annotations

import json
from typing import Any

from wanspec.errors import ConfigError
from wanspec.telemetry.context import TRACEPARENT, TraceContext
from wanspec.telemetry.settings import TraceSettings, check_url
from wanspec.triton.parameters import Parameters

SEND_MS = 500
"""Between two batches of Triton's spans."""


def trace_parameters(settings: TraceSettings) -> dict[str, str | float | bool]:
    """What the endpoint's model is told."""
    return {
        "trace_url": settings.url,
        "trace_slow_ms": settings.slow_ms,
        "trace_content": settings.content,
    }


def read_trace_settings(parameters: Parameters) -> TraceSettings:
    """What a model was told. How many requests are traced is for Triton to say.

    Raises:
        ConfigError: a parameter is unusable.
    """
    content = parameters.text("trace_content", "false")
    if content not in ("true", "false"):
        raise ConfigError("parameters.trace_content", f"{content!r} is not true or false")
    return TraceSettings(
        url=check_url("parameters.trace_url", parameters.text("trace_url", "")),
        slow_ms=parameters.number("trace_slow_ms", TraceSettings().slow_ms),
        content=content == "true",
    )


def trace_flags(url: str, rate: int, service: str, region: str) -> tuple[str, ...]:
    """Flags of tritonserver: none without an endpoint.

    Args:
        url: OTLP/HTTP endpoint.
        rate: one of so many requests is traced, and those whose caller traces; 0: the latter only.
        service: Triton's name in traces.
        region: where it is.
    """
    if not url:
        return ()
    return (
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={url}",
        f"--trace-config=opentelemetry,bsp_schedule_delay={SEND_MS}",
        f"--trace-config=opentelemetry,resource=service.name={service}",
        f"--trace-config=opentelemetry,resource=cloud.region={region}",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={rate}",
        "--trace-config=count=-1",
        # Triton records what a caller names, also where that says not to; the header tells.
        f"--grpc-header-forward-pattern={TRACEPARENT}",
    )


def trace_context(request: Any, given: dict[str, Any]) -> tuple[str, bool]:
    """What a request is part of, and whether its caller records that.

    Args:
        request: of the python backend.
        given: its parameters, among which Triton puts the caller's own header.

    Returns:
        Triton's own span where Triton traces the request, otherwise what the caller named, empty for nothing.
    """
    header = str(given.get(TRACEPARENT, ""))
    context = request.trace().get_context()
    own = str(json.loads(context).get(TRACEPARENT, "")) if context else ""
    caller = TraceContext.parse(header)
    return own or header, caller is None or caller.sampled
