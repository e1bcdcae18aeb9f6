"""Calls to `target` and `draft` by the tensors of TensorRT-LLM's `inflight_batcher_llm` model, over BLS.

End token and stop words are left out on purpose: the controller looks for them itself, so that every verification
returns at least one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.errors import EngineError, RequestStoppedError

try:
    import triton_python_backend_utils as pb_utils
except ImportError:  # outside Triton's stub; only what runs inside it calls
    pb_utils = None

_OUTPUTS = ["output_ids", "sequence_length", "first_scheduled_time_ns", "last_token_time_ns"]
_LOG_PROBS, _LOGITS = "output_log_probs", "generation_logits"
_BLOCKS = ["kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks"]
_TRUE = np.ones((1, 1), dtype=np.bool_)


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """New tokens of one call, their log-probabilities (empty unless asked for), and the engine's own time in ms.

    ``blocks``: of KV cache, newly allocated, reused, and allocated in all; empty unless asked for and known.
    ``logits``: float32 [rows, columns], that tokens were chosen from; None unless asked for.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    engine_ms: float
    blocks: tuple[int, ...] = ()
    logits: NDArray[np.float32] | None = None


def verify(
    model: str,
    prefix: NDArray[np.int32],
    drafts: Sequence[int],
    choice: Mapping[str, NDArray[Any]],
    *,
    log_probs: bool,
    timeout_ms: float,
    blocks: bool = False,
    logits: bool = False,
    decoupled: bool = False,
    request_id: str = "",
) -> EngineAnswer:
    """Verify drafts after a prefix in one target pass. Blocking; from any thread of the stub.

    Args:
        model: name of the model in this server.
        prefix: int32 [n], the committed tokens.
        drafts: k token ids; may be empty.
        choice: tensors that say how tokens are chosen (:mod:`wanspec.triton.tensorrt_llm.inputs`).
        log_probs: also return the log-probability of each token.
        timeout_ms: longest that the call may wait in Triton's queue; one that runs is not cut off.
        blocks: also return what it took of the KV cache.
        logits: also return the logits that tokens were chosen from.
        decoupled: whether the model is deployed so; other calls to such a model fail.
        request_id: what :func:`stop` knows the call by.

    Returns:
        j accepted drafts and one token of the target's own.

    Raises:
        EngineError: the engine answered with an error.
        RequestStoppedError: it was stopped.
    """
    inputs = {**choice, "input_ids": prefix[None], "request_output_len": _int(len(drafts) + 1)}
    if drafts:
        inputs["draft_input_ids"] = np.array([drafts], dtype=np.int32)
    extra = ([_LOG_PROBS] if log_probs else []) + (_BLOCKS if blocks else []) + ([_LOGITS] if logits else [])
    return _call(model, inputs, extra, timeout_ms, decoupled, request_id)


def generate(
    model: str,
    prefix: NDArray[np.int32],
    count: int,
    choice: Mapping[str, NDArray[Any]],
    *,
    log_probs: bool,
    timeout_ms: float,
    decoupled: bool = False,
    request_id: str = "",
) -> EngineAnswer:
    """Generate ``count`` tokens in one request: a local draft. Arguments as :func:`verify`'s.

    Raises:
        EngineError: the engine answered with an error.
        RequestStoppedError: it was stopped.
    """
    inputs = {**choice, "input_ids": prefix[None], "request_output_len": _int(count)}
    return _call(model, inputs, [_LOG_PROBS] if log_probs else [], timeout_ms, decoupled, request_id)


def stop(model: str, request_id: str, *, timeout_ms: float, decoupled: bool = False) -> None:
    """End the call of this id, if it still runs. Blocking, for as long as the engine takes to read a request.

    A call to a model that is not decoupled cannot be cancelled otherwise; it then ends by
    :class:`~wanspec.errors.RequestStoppedError`, or with what it has.

    Raises:
        EngineError: the engine answered with an error.
    """
    # Triton wants what the configuration does not call optional, and the engine looks at nothing but the id.
    inputs = {
        "input_ids": np.zeros((1, 1), dtype=np.int32),
        "input_lengths": _int(1),
        "request_output_len": _int(1),
        "stop": _TRUE,
    }
    for _ in _responses(model, inputs, _OUTPUTS[:2], timeout_ms, decoupled, request_id):
        pass  # to the end: it says no more than whether there is an error


def _call(
    model: str,
    inputs: dict[str, NDArray[Any]],
    extra: list[str],
    timeout_ms: float,
    decoupled: bool,
    request_id: str,
) -> EngineAnswer:
    inputs["input_lengths"] = _int(inputs["input_ids"].shape[1])
    inputs["exclude_input_in_output"] = _TRUE
    inputs["return_perf_metrics"] = _TRUE
    if _LOG_PROBS in extra:
        inputs["return_log_probs"] = _TRUE
    if _LOGITS in extra:
        inputs["return_generation_logits"] = _TRUE
    outputs: dict[str, NDArray[Any]] = {}
    # All are read: a decoupled model's last response may be an empty one.
    for response in _responses(model, inputs, _OUTPUTS + extra, timeout_ms, decoupled, request_id):
        outputs |= {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    return _answer(model, outputs)


def _responses(
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    outputs: list[str],
    timeout_ms: float,
    decoupled: bool,
    request_id: str,
) -> Iterator[Any]:
    request = pb_utils.InferenceRequest(
        request_id=request_id,
        model_name=model,
        inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
        requested_output_names=outputs,
        timeout=int(timeout_ms * 1000),
    )
    for response in request.exec(decoupled=True) if decoupled else (request.exec(),):
        if response.has_error():
            raise EngineError(f"{model}: {response.error().message()}")
        yield response


def _answer(model: str, outputs: dict[str, NDArray[Any]]) -> EngineAnswer:
    if not outputs:
        raise RequestStoppedError(f"{model}: the call was stopped")
    try:
        length = int(outputs["sequence_length"].reshape(-1)[0])
        tokens = tuple(outputs["output_ids"].reshape(-1)[:length].tolist())
        values = outputs.get(_LOG_PROBS)
        log_probs = () if values is None else tuple(values.reshape(-1)[:length].tolist())
        began = int(outputs["first_scheduled_time_ns"].reshape(-1)[0])
        ended = int(outputs["last_token_time_ns"].reshape(-1)[0])
    except (KeyError, IndexError) as error:
        raise EngineError(f"{model}: its answer lacks {error}") from error
    blocks = tuple(int(outputs[name].reshape(-1)[0]) for name in _BLOCKS if name in outputs)
    known = blocks if len(blocks) == len(_BLOCKS) else ()
    logits = outputs.get(_LOGITS)
    rows = None if logits is None else logits.reshape(-1, logits.shape[-1])
    return EngineAnswer(tokens, log_probs, max(0.0, (ended - began) / 1e6), known, rows)


def _int(value: int) -> NDArray[np.int32]:
    return np.array([[value]], dtype=np.int32)
