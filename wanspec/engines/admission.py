"""What an engine takes: TensorRT-LLM's checks of a request against what the engine was built for."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanspec.engines.contract import GenerationRequest
from wanspec.errors import InvalidRequestError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine was built for, as ``trtllm-build`` names it. All but ``max_batch_size`` in tokens.

    Attributes:
        max_seq_len: prompt and output together.
        max_input_len: prompt and drafts together.
        max_draft_len: drafts of one request; 0 for an engine that is no verifier.
        vocab_size: token ids are below it.
        max_batch_size: requests that one step takes; 0 for no limit. The oldest have a place each until they end,
            others wait.
    """

    max_seq_len: int
    max_input_len: int
    max_draft_len: int
    vocab_size: int
    max_batch_size: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A validated request, cut to the limits."""

    request: GenerationRequest
    prompt: NDArray[np.int32]
    drafts: NDArray[np.int32]
    output_len: int

    @property
    def cache_tokens(self) -> int:
        """Most tokens that its KV cache will hold: all but the last output token."""
        return len(self.prompt) + max(len(self.drafts), self.output_len - 1)


def admit(request: GenerationRequest, limits: EngineLimits) -> Admitted:
    """Validate a request as TensorRT-LLM does (``docs/engines.md``).

    Raises:
        InvalidRequestError: it cannot be served; the message names the input.
    """
    prompt, drafts = request.input_ids, request.draft_input_ids
    _check_tokens("input_ids", prompt, limits.vocab_size)
    _check_tokens("draft_input_ids", drafts, limits.vocab_size)
    if len(prompt) == 0:
        raise InvalidRequestError("input_ids", "the prompt is empty: at least one token is needed")
    if len(prompt) > limits.max_input_len:
        raise InvalidRequestError(
            "input_ids", f"prompt length ({len(prompt)}) exceeds maximum input length ({limits.max_input_len})"
        )
    if request.request_output_len < 1:
        raise InvalidRequestError("request_output_len", f"is {request.request_output_len}: must be at least 1")
    if len(drafts) > limits.max_draft_len:
        raise InvalidRequestError(
            "draft_input_ids",
            f"number of draft tokens ({len(drafts)}) is larger than maximum number of draft tokens "
            f"({limits.max_draft_len}): send fewer or raise the engine's max_draft_len",
        )
    _check_choice(request)
    _check_widths(request, limits)
    output_len = min(request.request_output_len, limits.max_seq_len - len(prompt))
    if output_len < 1:
        raise InvalidRequestError(
            "input_ids",
            f"prompt length ({len(prompt)}) leaves no room for output in max_seq_len ({limits.max_seq_len})",
        )
    if output_len < request.request_output_len:
        logger.warning(
            "request_output_len reduced from %d to %d by max_seq_len", request.request_output_len, output_len
        )
    room = limits.max_input_len - len(prompt)
    if len(drafts) > room:
        logger.warning("drafts truncated from %d to %d by max_input_len", len(drafts), room)
    # A draft that could not be returned even if accepted is not worth a row.
    return Admitted(request, prompt, drafts[: min(room, output_len - 1)] if len(drafts) else drafts, output_len)


def _check_tokens(name: str, tokens: NDArray[np.int32], vocab_size: int) -> None:
    if tokens.ndim != 1:
        raise InvalidRequestError(name, f"has {tokens.ndim} dimensions after the batch: send one row of token ids")
    if len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < vocab_size):
        raise InvalidRequestError(name, f"token ids must be in [0, {vocab_size}), the model's vocabulary")


def _check_choice(request: GenerationRequest) -> None:
    """Inputs that decide how tokens are chosen, in their own ranges."""
    for name, value in (("beam_width", request.beam_width), ("num_return_sequences", request.num_return_sequences)):
        if value != 1:
            raise InvalidRequestError(name, f"is {value}: only 1 is supported")
    threshold = request.draft_acceptance_threshold
    ranges: tuple[tuple[str, float | None, float, float], ...] = (
        ("temperature", request.temperature, 0.0, math.inf),
        ("runtime_top_k", request.runtime_top_k, 0, math.inf),
        ("runtime_top_p", request.runtime_top_p, 0.0, 1.0),
        ("min_tokens", request.min_tokens, 0, math.inf),
        ("draft_acceptance_threshold", threshold, 0.0, 1.0),
    )
    for name, number, least, most in ranges:
        if number is not None and not (least <= number <= most and math.isfinite(number)):
            above = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise InvalidRequestError(name, f"is {number:g}: must be {above}")
    if not 0.0 < request.repetition_penalty < math.inf:
        raise InvalidRequestError("repetition_penalty", f"is {request.repetition_penalty:g}: must be above 0")
    for name, number in (("presence", request.presence_penalty), ("frequency", request.frequency_penalty)):
        if not math.isfinite(number):
            raise InvalidRequestError(f"{name}_penalty", f"is {number:g}: must be a finite number")


def _check_widths(request: GenerationRequest, limits: EngineLimits) -> None:
    bias, logits = request.embedding_bias, request.draft_logits
    if bias is not None and (bias.shape != (limits.vocab_size,) or not np.isfinite(bias).all()):
        raise InvalidRequestError(
            "embedding_bias", f"has shape {list(bias.shape)}: must be [{limits.vocab_size}], the vocabulary, and finite"
        )
    if logits is not None:
        drafts = len(request.draft_input_ids)
        if logits.ndim != 2 or logits.shape[0] != drafts or logits.shape[1] < limits.vocab_size:
            raise InvalidRequestError(
                "draft_logits",
                f"has shape {list(logits.shape)}: must be [{drafts}, {limits.vocab_size}], drafts and vocabulary",
            )
    if request.return_context_logits and limits.max_draft_len:
        raise InvalidRequestError(
            "return_context_logits", "is not available of an engine built with max_draft_len above 0: ask another"
        )
    for name, words in (("stop_words_list", request.stop_words), ("bad_words_list", request.bad_words)):
        for word in words:
            _check_tokens(name, np.asarray(word, dtype=np.int32), limits.vocab_size)
