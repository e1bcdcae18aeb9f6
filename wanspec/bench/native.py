"""The target without us: one request to its engine, which generates the whole answer. The honest ``target_only``."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from wanspec.bench.session import Session
from wanspec.core.rounds import Tally
from wanspec.errors import ServerError

NATIVE = "target_native"
_TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


class NativeTarget:
    """Asks a session's target by the tensors of TensorRT-LLM, past the model ``wanspec``."""

    def __init__(self, session: Session, timeout_s: float = 120.0) -> None:
        """``timeout_s``: longest wait for an answer."""
        self._session = session
        self._timeout_s = timeout_s

    @property
    def available(self) -> bool:
        """Whether the target takes a unary request: a decoupled one does not."""
        return self._session.parameters.get("engines_decoupled", "false") != "true"

    def generate(
        self, prompts: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[tuple[list[int], dict[str, Any]]]:
        """Generate ``counts`` tokens after each of ``prompts``, all at once.

        Returns:
            Of each its tokens, and a summary with the fields of the endpoint's. Times are the engine's own, from the
            arrival of the request there.

        Raises:
            ServerError: the engine failed, or took longer than the timeout.
        """
        client = self._session.connect()
        try:
            calls: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in prompts]
            for call, ids, count in zip(calls, prompts, counts, strict=True):
                client.async_infer(
                    self._session.target_model, _inputs(ids, count), _answer_to(call), outputs=_outputs()
                )
            return [self._take(call, len(ids)) for call, ids in zip(calls, prompts, strict=True)]
        finally:
            client.close()

    def _take(self, call: queue.SimpleQueue[Any], prompt_tokens: int) -> tuple[list[int], dict[str, Any]]:
        try:
            result = call.get(timeout=self._timeout_s)
        except queue.Empty:
            raise ServerError(f"{self._session.target_model}: no answer within {self._timeout_s:g} s") from None
        if isinstance(result, InferenceServerException):
            raise ServerError(f"{self._session.target_model}: {result.message()}")
        length = int(result.as_numpy("sequence_length").reshape(-1)[0])
        tokens = result.as_numpy("output_ids").reshape(-1)[:length].tolist()
        arrival, scheduled, first, last = (int(result.as_numpy(name).reshape(-1)[0]) for name in _TIMES)
        tally = Tally(rounds=length, target_ms=(last - scheduled) / 1e6)
        return tokens, {
            "policy": NATIVE,
            "prompt_tokens": prompt_tokens,
            "output_tokens": length,
            "latency_ms": round((last - arrival) / 1e6, 3),
            "ttft_ms": round((first - arrival) / 1e6, 3),
            "rtt_ms": None,
            "pass_ms": None,
            **tally.as_dict(),
        }


def _answer_to(call: queue.SimpleQueue[Any]) -> Any:
    return lambda result, error: call.put(result if error is None else error)


def _inputs(ids: Sequence[int], count: int) -> list[Any]:
    values = {
        "input_ids": np.array([ids], dtype=np.int32),
        "input_lengths": np.array([[len(ids)]], dtype=np.int32),
        "request_output_len": np.array([[count]], dtype=np.int32),
        "exclude_input_in_output": np.ones((1, 1), dtype=np.bool_),
        "return_perf_metrics": np.ones((1, 1), dtype=np.bool_),
    }
    inputs = []
    for name, value in values.items():
        tensor = triton.InferInput(name, list(value.shape), "BOOL" if value.dtype == np.bool_ else "INT32")
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


def _outputs() -> list[Any]:
    return [triton.InferRequestedOutput(name) for name in ("output_ids", "sequence_length", *_TIMES)]
