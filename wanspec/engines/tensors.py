"""The tensors of the contract, by name: what answers are written to. Requests: :mod:`wanspec.engines.inputs`.

Names, dtypes and shapes are in docs/engines.md. Pure numpy: no server is needed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.engines.contract import GenerationResult
from wanspec.engines.inputs import ContractRequest
from wanspec.errors import InvalidRequestError

Tensor = NDArray[Any]
REQUIRED_OUTPUTS = ("output_ids", "sequence_length")


def check_requested_outputs(names: Collection[str]) -> None:
    """Refuse a request that does not ask for the outputs TensorRT-LLM insists on.

    Raises:
        InvalidRequestError: one is not among ``names``.
    """
    for name in REQUIRED_OUTPUTS:
        if name not in names:
            raise InvalidRequestError(name, "must be present in list of output tensors")


def write_result(request: ContractRequest, result: GenerationResult) -> dict[str, Tensor]:
    """All output tensors of a result that its request asked for, batch dimension included.

    A streamed response holds new tokens only.
    """
    prompt, output = request.generation.input_ids, result.output_ids
    excluded = request.exclude_input or request.streaming
    sequence = output if excluded else np.concatenate((prompt, output))
    tensors: dict[str, Tensor] = {
        "output_ids": np.ascontiguousarray(sequence, dtype=np.int32).reshape(1, 1, -1),
        "sequence_length": np.array([[len(sequence)]], dtype=np.int32),
    }
    if result.log_probs is not None:
        tensors["cum_log_probs"] = np.array([[result.cum_log_prob]], dtype=np.float32)
        tensors["output_log_probs"] = result.log_probs.astype(np.float32).reshape(1, 1, -1)
    for name, logits, shape in (
        ("context_logits", result.context_logits, (1,)),
        ("generation_logits", result.generation_logits, (1, 1)),
    ):
        if logits is not None:
            tensors[name] = logits.astype(np.float32, copy=False).reshape(*shape, *logits.shape)
    for name, index in (("batch_index", request.batch_index), ("sequence_index", request.sequence_index)):
        if index is not None:
            tensors[name] = np.array([[index]], dtype=np.int32)
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
