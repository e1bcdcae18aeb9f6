"""The tensors of the contract, by name: read a request from them, and write a result to them.

Names, dtypes and shapes are those of TENSORRT_LLM.md section 1. Pure numpy: no server is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.engines.contract import NO_TOKENS, GenerationRequest, GenerationResult
from wanspec.errors import InvalidRequestError

Tensor = NDArray[Any]
REQUIRED_OUTPUTS = ("output_ids", "sequence_length")


@dataclass(frozen=True, slots=True)
class ContractRequest:
    """A parsed request: what the engine needs, and what the answer should hold."""

    generation: GenerationRequest
    exclude_input: bool
    return_perf_metrics: bool
    return_num_tokens: tuple[bool, bool]


def _never(value: object) -> bool:
    return False


_NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "streaming": lambda value: not value,
    "stop": lambda value: not value,
    "return_context_logits": lambda value: not value,
    "return_generation_logits": lambda value: not value,
    "repetition_penalty": lambda value: value in (0.0, 1.0),
    "presence_penalty": lambda value: value == 0.0,
    "frequency_penalty": lambda value: value == 0.0,
    "draft_logits": _never,
    "stop_words_list": _never,
    "bad_words_list": _never,
    "embedding_bias": _never,
}
"""Unsupported inputs: the values that ask for nothing, and are therefore accepted."""


def read_request(
    tensors: Mapping[str, Tensor], *, exclude_input: bool = False, arrival_ns: int | None = None
) -> ContractRequest:
    """Parse the input tensors of one request.

    Args:
        tensors: by name, as they came, batch dimension included.
        exclude_input: the model's parameter, which the tensor ``exclude_input_in_output`` overrides.
        arrival_ns: monotonic clock.

    Raises:
        InvalidRequestError: a tensor is missing, malformed, or asks for something unsupported.
    """
    _refuse_unsupported(tensors)
    prompt = _row(tensors, "input_ids")
    length = _scalar(tensors, "input_lengths", int)
    output_len = _scalar(tensors, "request_output_len", int)
    for name, value in (("input_ids", prompt), ("input_lengths", length), ("request_output_len", output_len)):
        if value is None:
            raise InvalidRequestError(name, "is missing: this input is required")
    assert prompt is not None, "checked above"
    assert length is not None, "checked above"
    assert output_len is not None, "checked above"
    if not 0 <= length <= len(prompt):
        raise InvalidRequestError("input_lengths", f"is {length}: input_ids holds {len(prompt)} tokens")
    end_id = _scalar(tensors, "end_id", int)
    end_id = None if end_id is None or end_id < 0 else end_id
    if end_id is not None and (_scalar(tensors, "min_tokens", int) or 0) > 1:
        raise InvalidRequestError("min_tokens", "is not supported together with end_id: leave one of them out")
    drafts = _row(tensors, "draft_input_ids")
    generation = GenerationRequest(
        input_ids=prompt[:length],
        request_output_len=output_len,
        draft_input_ids=NO_TOKENS if drafts is None else drafts,
        end_id=end_id,
        return_log_probs=bool(_scalar(tensors, "return_log_probs", bool)),
        runtime_top_k=_scalar(tensors, "runtime_top_k", int),
        runtime_top_p=_scalar(tensors, "runtime_top_p", float),
        temperature=_scalar(tensors, "temperature", float),
        beam_width=_or_one(_scalar(tensors, "beam_width", int)),
        num_return_sequences=_or_one(_scalar(tensors, "num_return_sequences", int)),
        arrival_ns=arrival_ns,
    )
    exclude = _scalar(tensors, "exclude_input_in_output", bool)
    return ContractRequest(
        generation=generation,
        exclude_input=exclude_input if exclude is None else exclude,
        return_perf_metrics=bool(_scalar(tensors, "return_perf_metrics", bool)),
        return_num_tokens=(
            bool(_scalar(tensors, "return_num_input_tokens", bool)),
            bool(_scalar(tensors, "return_num_output_tokens", bool)),
        ),
    )


def check_requested_outputs(names: Collection[str]) -> None:
    """Refuse a request that does not ask for the outputs TensorRT-LLM insists on.

    Raises:
        InvalidRequestError: one is not among ``names``.
    """
    for name in REQUIRED_OUTPUTS:
        if name not in names:
            raise InvalidRequestError(name, "must be present in list of output tensors")


def write_result(request: ContractRequest, result: GenerationResult) -> dict[str, Tensor]:
    """All output tensors of a result that its request asked for, batch dimension included."""
    prompt, output = request.generation.input_ids, result.output_ids
    sequence = output if request.exclude_input else np.concatenate((prompt, output))
    tensors: dict[str, Tensor] = {
        "output_ids": np.ascontiguousarray(sequence, dtype=np.int32).reshape(1, 1, -1),
        "sequence_length": np.array([[len(sequence)]], dtype=np.int32),
    }
    if result.log_probs is not None:
        tensors["cum_log_probs"] = np.array([[result.cum_log_prob]], dtype=np.float32)
        tensors["output_log_probs"] = result.log_probs.astype(np.float32).reshape(1, 1, -1)
    if request.return_perf_metrics:
        tensors |= _perf_metrics(result)
    for wanted, name, count in zip(
        request.return_num_tokens, ("num_input_tokens", "num_output_tokens"), (len(prompt), len(output)), strict=True
    ):
        if wanted:
            tensors[name] = np.array([[count]], dtype=np.int32)
    return tensors


def _perf_metrics(result: GenerationResult) -> dict[str, Tensor]:
    counts = {
        "kv_cache_alloc_new_blocks": result.alloc_new_blocks,
        "kv_cache_reused_blocks": result.reused_blocks,
        "kv_cache_alloc_total_blocks": result.alloc_total_blocks,
        "total_accepted_draft_tokens": result.accepted_drafts,
        "total_draft_tokens": result.total_drafts,
    }
    times = {
        "arrival_time_ns": result.timings.arrival_ns,
        "first_scheduled_time_ns": result.timings.first_scheduled_ns,
        "first_token_time_ns": result.timings.first_token_ns,
        "last_token_time_ns": result.timings.last_token_ns,
    }
    tensors: dict[str, Tensor] = {name: np.array([[value]], dtype=np.int32) for name, value in counts.items()}
    tensors |= {name: np.array([[value]], dtype=np.int64) for name, value in times.items()}
    tensors["acceptance_rate"] = np.array([[result.acceptance_rate]], dtype=np.float32)
    return tensors


def _refuse_unsupported(tensors: Mapping[str, Tensor]) -> None:
    for name, neutral in _NEUTRAL.items():
        tensor = tensors.get(name)
        if tensor is not None and tensor.size and not all(neutral(value) for value in tensor.reshape(-1).tolist()):
            raise InvalidRequestError(name, "is not supported by this engine: leave it out")


def _row(tensors: Mapping[str, Tensor], name: str) -> NDArray[np.int32] | None:
    """The one row of a ``[1, n]`` tensor."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if tensor.ndim != 2:
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [1, n]")
    if tensor.shape[0] != 1:
        raise InvalidRequestError(name, f"has batch size {tensor.shape[0]}: batch size > 1 requires a decoupled model")
    row: NDArray[np.int32] = tensor[0].astype(np.int32, copy=False)
    return row


def _scalar(tensors: Mapping[str, Tensor], name: str, kind: Callable[[Any], Any]) -> Any:
    """The one value of a ``[1, 1]`` tensor (``[1]`` where a server applied the reshape)."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if tensor.size != 1:
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [1, 1]")
    return kind(tensor.reshape(-1)[0])


def _or_one(value: int | None) -> int:
    return 1 if value is None else value
