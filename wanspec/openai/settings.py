"""Settings of the front. Imports nothing, so that a command line can show the defaults without a server's libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """How the front answers.

    Attributes:
        host, port: where it listens.
        model: the model's name in requests.
        api_key: what clients must send as bearer token; empty for none.
        max_requests: answers under way at once; a request that wants more is told to try again.
        timeout_s: longest time for an answer.
        generation: options of ``WanspecClient.ask`` for requests that do not give them.
    """

    host: str = "127.0.0.1"
    port: int = 9000
    model: str = "wanspec"
    api_key: str = ""
    max_requests: int = 64
    timeout_s: float = 600.0
    generation: Mapping[str, Any] = field(default_factory=dict)
