"""Read the input tensors of the contract, by name. Pure numpy: no server is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.engines.contract import NO_TOKENS, GenerationRequest, Words
from wanspec.errors import InvalidRequestError

Tensor = NDArray[Any]

_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ContractRequest:
    """A parsed request: what the engine needs, and what the answer should hold.

    Attributes:
        generation: for the engine.
        exclude_input: output_ids begins after the prompt.
        return_perf_metrics: asks for the performance outputs.
        return_num_tokens: asks for (num_input_tokens, num_output_tokens).
        streaming: asks for a response at each token.
        batch_index: which row of a batch of more than one.
        sequence_index: which of several sequences asked for.
    """

    generation: GenerationRequest
    exclude_input: bool
    return_perf_metrics: bool
    return_num_tokens: tuple[bool, bool]
    streaming: bool = False
    batch_index: int | None = None
    sequence_index: int | None = None


def _never(value: object) -> bool:
    return False


def _false(value: object) -> bool:
    return not value


def _one(value: object) -> bool:
    return value == 1


UNSUPPORTED: Mapping[str, Callable[[Any], bool]] = {
    "encoder_input_features": _never,
    "encoder_output_lengths": _never,
    "runtime_top_p_decay": _one,
    "prompt_embedding_table": _never,
    "prompt_table_extra_ids": _never,
    "prompt_vocab_size": _false,
    "cross_attention_mask": _never,
    "mrope_rotary_cos_sin": _never,
    "mrope_position_deltas": _never,
    "skip_cross_attn_blocks": _never,
    "lora_task_id": _never,
    "lora_weights": _never,
    "lora_config": _never,
    "context_phase_params": _never,
    "retention_token_range_starts": _never,
    "retention_token_range_ends": _never,
    "retention_token_range_priorities": _never,
    "retention_token_range_durations_ms": _never,
    "retention_decode_priority": _never,
    "retention_decode_duration_ms": _never,
    "guided_decoding_guide_type": _never,
    "guided_decoding_guide": _never,
    "lookahead_window_size": _never,
    "lookahead_ngram_size": _never,
    "lookahead_verification_set_size": _never,
}
"""Inputs that are refused, with the values that ask for nothing and are therefore accepted."""

IGNORED = (
    "decoder_input_ids",
    "decoder_input_lengths",
    "pad_id",
    "len_penalty",
    "early_stopping",
    "beam_search_diversity_rate",
    "runtime_top_p_min",
    "runtime_top_p_reset_ids",
)
"""Inputs that have no meaning for a decoder-only model, one beam, no top-p decay; they are accepted as they are."""


def read_requests(
    tensors: Mapping[str, Tensor],
    *,
    exclude_input: bool = False,
    decoupled: bool = False,
    arrival_ns: int | None = None,
) -> list[ContractRequest]:
    """Parse the input tensors of one Triton request: as many requests as its batch and num_return_sequences ask for.

    Args:
        tensors: by name, as they came, batch dimension included.
        exclude_input: the model's parameter, which the tensor ``exclude_input_in_output`` overrides.
        decoupled: whether the model may send more than one response.
        arrival_ns: monotonic clock.

    Raises:
        InvalidRequestError: a tensor is missing, malformed, or asks for something unsupported.
    """
    ids = tensors.get("input_ids")
    batch = ids.shape[0] if ids is not None and ids.ndim == 2 else 1
    if batch > 1 and not decoupled:
        raise InvalidRequestError("input_ids", f"has batch size {batch}: batch size > 1 requires a decoupled model")
    for name, tensor in tensors.items():
        if batch > 1 and tensor.shape[:1] != (batch,):
            raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: the batch size of input_ids is {batch}")
    requests: list[ContractRequest] = []
    for index in range(batch):
        row = {name: tensor[index : index + 1] for name, tensor in tensors.items()} if batch > 1 else tensors
        request = _read_row(row, exclude_input, arrival_ns)
        if request.streaming and not decoupled:
            raise InvalidRequestError("streaming", "is only supported if the model is deployed using decoupled mode")
        if batch > 1:
            request = replace(request, batch_index=index)
        requests += _sequences(request, decoupled)
    return requests


def stop_requested(tensors: Mapping[str, Tensor]) -> bool:
    """Whether this is a request to stop another one."""
    return bool(_scalar(tensors, "stop", bool))


def read_request(
    tensors: Mapping[str, Tensor], *, exclude_input: bool = False, arrival_ns: int | None = None
) -> ContractRequest:
    """Parse the input tensors of a request with one response; see :func:`read_requests`."""
    return read_requests(tensors, exclude_input=exclude_input, arrival_ns=arrival_ns)[0]


def _sequences(request: ContractRequest, decoupled: bool) -> list[ContractRequest]:
    count = request.generation.num_return_sequences
    if count == 1:
        return [request]
    if not count >= 1:
        raise InvalidRequestError("num_return_sequences", f"is {count}: must be at least 1")
    if not decoupled:
        raise InvalidRequestError("num_return_sequences", f"is {count}: more than 1 requires a decoupled model")
    seed = request.generation.seed or 0
    return [
        replace(
            request,
            sequence_index=index,
            generation=replace(request.generation, num_return_sequences=1, seed=(seed + index) & _WORD),
        )
        for index in range(count)
    ]


def _read_row(tensors: Mapping[str, Tensor], exclude_input: bool, arrival_ns: int | None) -> ContractRequest:
    _refuse_unsupported(tensors)
    exclude = _scalar(tensors, "exclude_input_in_output", bool)
    return ContractRequest(
        generation=_generation(tensors, arrival_ns),
        exclude_input=exclude_input if exclude is None else exclude,
        return_perf_metrics=_flag(tensors, "return_perf_metrics"),
        return_num_tokens=(_flag(tensors, "return_num_input_tokens"), _flag(tensors, "return_num_output_tokens")),
        streaming=_flag(tensors, "streaming"),
    )


def _generation(tensors: Mapping[str, Tensor], arrival_ns: int | None) -> GenerationRequest:
    prompt = _required(tensors, "input_ids", _row(tensors, "input_ids"))
    length = _required(tensors, "input_lengths", _scalar(tensors, "input_lengths", int))
    output_len = _required(tensors, "request_output_len", _scalar(tensors, "request_output_len", int))
    if not 0 <= length <= len(prompt):
        raise InvalidRequestError("input_lengths", f"is {length}: input_ids holds {len(prompt)} tokens")
    end_id = _scalar(tensors, "end_id", int)
    drafts = _row(tensors, "draft_input_ids")
    bias = _row(tensors, "embedding_bias", np.float32)
    return GenerationRequest(
        input_ids=prompt[:length],
        request_output_len=output_len,
        draft_input_ids=NO_TOKENS if drafts is None else drafts,
        draft_logits=_matrix(tensors, "draft_logits"),
        draft_acceptance_threshold=_scalar(tensors, "draft_acceptance_threshold", float),
        end_id=None if end_id is None or end_id < 0 else end_id,
        stop_words=_words(tensors, "stop_words_list"),
        bad_words=_words(tensors, "bad_words_list"),
        embedding_bias=None if bias is None or bias.size == 0 else bias,
        min_tokens=_scalar(tensors, "min_tokens", int) or 0,
        temperature=_scalar(tensors, "temperature", float),
        runtime_top_k=_scalar(tensors, "runtime_top_k", int),
        runtime_top_p=_scalar(tensors, "runtime_top_p", float),
        seed=_scalar(tensors, "seed", int),
        repetition_penalty=_or(_scalar(tensors, "repetition_penalty", float), 1.0),
        presence_penalty=_or(_scalar(tensors, "presence_penalty", float), 0.0),
        frequency_penalty=_or(_scalar(tensors, "frequency_penalty", float), 0.0),
        beam_width=_or(_scalar(tensors, "beam_width", int), 1),
        num_return_sequences=_or(_scalar(tensors, "num_return_sequences", int), 1),
        return_log_probs=_flag(tensors, "return_log_probs"),
        return_context_logits=_flag(tensors, "return_context_logits"),
        return_generation_logits=_flag(tensors, "return_generation_logits"),
        arrival_ns=arrival_ns,
    )


def _refuse_unsupported(tensors: Mapping[str, Tensor]) -> None:
    for name, neutral in UNSUPPORTED.items():
        tensor = tensors.get(name)
        if tensor is not None and tensor.size and not all(neutral(value) for value in tensor.reshape(-1).tolist()):
            raise InvalidRequestError(name, "is not supported by this engine: leave it out")


def _required(tensors: Mapping[str, Tensor], name: str, value: Any) -> Any:
    if value is None:
        raise InvalidRequestError(name, "is missing: this input is required")
    return value


def _row(tensors: Mapping[str, Tensor], name: str, dtype: type[np.generic] = np.int32) -> NDArray[Any] | None:
    """The one row of a ``[1, n]`` tensor."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if tensor.ndim != 2:
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [1, n]")
    row: NDArray[Any] = tensor[0].astype(dtype, copy=False)
    return row


def _matrix(tensors: Mapping[str, Tensor], name: str) -> NDArray[np.float32] | None:
    """The one matrix of a ``[1, n, m]`` tensor; None where it is empty."""
    tensor = tensors.get(name)
    if tensor is None or tensor.size == 0:
        return None
    if tensor.ndim != 3:
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [1, drafts, vocabulary]")
    matrix: NDArray[np.float32] = tensor[0].astype(np.float32, copy=False)
    return matrix


def _words(tensors: Mapping[str, Tensor], name: str) -> Words:
    """Sequences of tokens from ``[1, 2, n]``: all tokens in a row, and where each sequence ends, padded with -1."""
    tensor = tensors.get(name)
    if tensor is None or tensor.size == 0:
        return ()
    if tensor.ndim != 3 or tensor.shape[1] != 2:
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [1, 2, n]")
    tokens, ends = tensor[0].tolist()
    ends = [end for end in ends if end >= 0]
    if not ends:
        return ()
    starts = [0, *ends[:-1]]
    if any(not start < end <= len(tokens) for start, end in zip(starts, ends, strict=True)):
        # A list of words that is there but empty is written as zeros by some clients.
        if not any(ends):
            return ()
        raise InvalidRequestError(
            name, f"has end offsets {ends}: the second row must rise, to at most {len(tokens)}, and be padded with -1"
        )
    return tuple(tuple(tokens[start:end]) for start, end in zip(starts, ends, strict=True))


def _scalar(tensors: Mapping[str, Tensor], name: str, kind: Callable[[Any], Any]) -> Any:
    """The one value of a ``[1, 1]`` tensor (``[1]`` where a server applied the reshape)."""
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if tensor.size != 1:
        raise InvalidRequestError(name, f"has shape {list(tensor.shape)}: must be [1, 1]")
    return kind(tensor.reshape(-1)[0])


def _flag(tensors: Mapping[str, Tensor], name: str) -> bool:
    return bool(_scalar(tensors, name, bool))


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
