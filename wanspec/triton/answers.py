"""The endpoint's output tensors, piece by piece. Free of Triton, so that it can be tested alone."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.events import Finished
from wanspec.core.tree import Origin
from wanspec.triton.endpoint import Asked
from wanspec.triton.text import TextCodec

Tensors = dict[str, NDArray[Any]]
"""By output name, batch dimension included."""

_BLOCKS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")


class AnswerTensors:
    """Makes the tensors of one request's answer: of each piece of a streamed one, or of the whole at its end."""

    def __init__(self, asked: Asked, codec: TextCodec) -> None:
        self._asked = asked
        self._arrival_ns = time.monotonic_ns()
        self._text = codec.stream(asked.request.prompt)
        self._held = _Piece()
        self._cum_log_prob = 0.0
        self._first = True
        if asked.echo:
            self._held.text = codec.decode(asked.request.prompt)
            self._held.ids = list(asked.request.prompt)

    def emit(
        self, tokens: tuple[int, ...], origins: tuple[Origin, ...], log_probs: tuple[float, ...]
    ) -> Tensors | None:
        """Take tokens; return a piece, or None where the whole answer is given at once."""
        held = self._held
        held.text += self._text.push(tokens)
        held.ids += tokens
        held.origins += origins
        held.log_probs += log_probs
        return self._piece() if self._asked.stream else None

    def finished(self, finished: Finished) -> Tensors:
        """Take the end, which was a good one; return the last piece."""
        self._held.text += self._text.flush()
        asked, tensors = self._asked, self._piece()
        tensors["finish_reason"] = _text(finished.reason)
        if asked.output_count:
            tensors["num_output_tokens"] = _whole(finished.summary["output_tokens"])
        if asked.perf_metrics:
            tensors |= self._perf_metrics(finished.summary)
        if asked.summary:
            tensors["summary"] = _text(json.dumps(finished.summary))
        if asked.event_log:
            tensors["event_log"] = _text("\n".join(finished.log))
        return tensors

    def _piece(self) -> Tensors:
        held, self._held = self._held, _Piece()
        tensors: Tensors = {
            "text_output": _text(held.text),
            "output_ids": np.array([held.ids], dtype=np.int32).reshape(1, -1),
            "origins": np.array([held.origins], dtype=np.uint8).reshape(1, -1),
        }
        if self._asked.request.log_probs:
            self._cum_log_prob += sum(held.log_probs)
            tensors["cum_log_probs"] = np.array([[self._cum_log_prob]], dtype=np.float32)
            tensors["output_log_probs"] = np.array([[held.log_probs]], dtype=np.float32).reshape(1, 1, -1)
        if self._first and self._asked.input_count:
            tensors["num_input_tokens"] = _whole(len(self._asked.request.prompt))
        self._first = False
        return tensors

    def _perf_metrics(self, summary: dict[str, Any]) -> Tensors:
        drafted = summary["drafted_remote"] + summary["drafted_local"]
        accepted = summary["accepted_remote"] + summary["accepted_local"]
        tensors: Tensors = {
            "acceptance_rate": np.array([[accepted / drafted if drafted else 0.0]], dtype=np.float32),
            "total_accepted_draft_tokens": _whole(accepted),
            "total_draft_tokens": _whole(drafted),
        }
        tensors |= {name: _whole(summary[name]) for name in _BLOCKS if summary[name] is not None}
        times = {
            "arrival_time_ns": 0.0,
            "first_token_time_ns": summary["ttft_ms"],
            "last_token_time_ns": summary["latency_ms"],
        }
        for name, after_ms in times.items():
            if after_ms is not None:
                tensors[name] = np.array([[self._arrival_ns + int(after_ms * 1e6)]], dtype=np.int64)
        return tensors


class _Piece:
    """What has not been sent yet."""

    def __init__(self) -> None:
        self.text = ""
        self.ids: list[int] = []
        self.origins: list[Origin] = []
        self.log_probs: list[float] = []


def _text(value: str) -> NDArray[Any]:
    return np.array([[value.encode()]], dtype=np.object_)


def _whole(value: Any) -> NDArray[Any]:
    return np.array([[value]], dtype=np.int32)
