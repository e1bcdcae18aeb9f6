"""What is traced, and where traces go."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from wanspec.errors import ConfigError

CONTROLLER, WORKER = "wanspec-controller", "wanspec-worker"
"""Names of the two services."""
SCARCE, IDLE = "scarce", "idle"
"""Names of the regions, where OpenTelemetry's environment gives them no others."""


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Settings of both regions. ``docs/traces.md`` explains them.

    Attributes:
        url: OTLP/HTTP endpoint for traces; empty for none.
        rate: one of so many requests is traced; 0: those only whose caller traces.
        slow_ms: requests that take at least so long are traced in any case; 0: none for that.
        content: spans hold text and tokens.
    """

    url: str = ""
    rate: int = 0
    slow_ms: float = 10_000.0
    content: bool = False


def check_url(field: str, url: str) -> str:
    """Return an OTLP/HTTP endpoint.

    Raises:
        ConfigError: it is none; names ``field``.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if url and not usable:
        raise ConfigError(field, f"{url!r} is not a URL of OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces")
    return url
