"""What a client of the endpoint gets: pieces, and the answer that they make."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from wanspec.core.tree import Origin
from wanspec.triton.endpoint import PERF_METRICS


@dataclass(slots=True)
class Piece:
    """Part of an answer: text, and the tokens, origins and (if asked for) log-probabilities that it came with.

    The first has the length of the prompt.
    """

    text: str
    tokens: tuple[int, ...]
    origins: tuple[Origin, ...]
    prompt_tokens: int = 0
    log_probs: tuple[float, ...] = ()


@dataclass(slots=True)
class Answer:
    """A whole answer.

    Attributes:
        text, tokens, origins: all pieces together.
        finish_reason: ``stop`` or ``length``.
        summary: what it cost (``docs/endpoint.md``), empty unless asked for.
        event_log: JSON lines, empty unless asked for.
        prompt_tokens: of the prompt; 0 until the first piece.
        log_probs: of the tokens, empty unless asked for.
        perf_metrics: outputs of ``return_perf_metrics`` by name, empty unless asked for.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    finish_reason: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    event_log: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    log_probs: list[float] = field(default_factory=list)
    perf_metrics: dict[str, float] = field(default_factory=dict)

    def add(self, result: Any) -> Piece:
        """Take one response of Triton's client."""
        text = text_of(result, "text_output")
        tokens = tuple(result.as_numpy("output_ids").reshape(-1).tolist())
        origins = tuple(Origin(value) for value in result.as_numpy("origins").reshape(-1).tolist())
        given = result.as_numpy("output_log_probs")
        log_probs = () if given is None else tuple(given.reshape(-1).tolist())
        prompt_tokens = int(_number(result, "num_input_tokens") or 0)
        self.text += text
        self.tokens += tokens
        self.origins += origins
        self.log_probs += log_probs
        self.prompt_tokens += prompt_tokens
        self.finish_reason = text_of(result, "finish_reason")
        if self.finish_reason:
            self.summary = json.loads(text_of(result, "summary") or "{}")
            self.event_log = text_of(result, "event_log").splitlines()
            found = {name: _number(result, name) for name in PERF_METRICS}
            self.perf_metrics = {name: value for name, value in found.items() if value is not None}
        return Piece(text, tokens, origins, prompt_tokens, log_probs)


def _number(result: Any, name: str) -> float | int | None:
    array = result.as_numpy(name)
    value: float | int | None = None if array is None or array.size == 0 else array.reshape(-1)[0].item()
    return value


def text_of(result: Any, name: str) -> str:
    """A string output of a response; empty where it has none."""
    array = result.as_numpy(name)
    return "" if array is None or array.size == 0 else bytes(array.reshape(-1)[0]).decode()
