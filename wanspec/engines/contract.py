"""Requests and results of the TensorRT-LLM contract, free of any server and of any tensor library but numpy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wanspec.errors import InvalidRequestError, WanspecError

logger = logging.getLogger(__name__)

NO_TOKENS: NDArray[np.int32] = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request of the contract; names are those of its tensors (TENSORRT_LLM.md section 1).

    Attributes:
        input_ids: int32 [n], the whole prefix.
        request_output_len: most tokens to return.
        draft_input_ids: int32 [k]; with drafts, one pass verifies them and the request ends.
        end_id: ends the output and is not part of it.
        return_log_probs: also return the log-probability of each output token.
        runtime_top_k, runtime_top_p, temperature, beam_width, num_return_sequences: only values that mean greedy.
        arrival_ns: monotonic clock; the time of admission where not given.
    """

    input_ids: NDArray[np.int32]
    request_output_len: int
    draft_input_ids: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    end_id: int | None = None
    return_log_probs: bool = False
    runtime_top_k: int | None = None
    runtime_top_p: float | None = None
    temperature: float | None = None
    beam_width: int = 1
    num_return_sequences: int = 1
    arrival_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Monotonic nanoseconds, as TensorRT-LLM's performance outputs name them."""

    arrival_ns: int
    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a request gets back.

    Attributes:
        output_ids: int32 [n], new tokens only.
        log_probs: float32 [n], natural log-probability of each under the model; None unless asked for.
        timings: of this request.
        total_drafts: drafts that were verified.
        accepted_drafts: how many of them the model agreed with.
        alloc_new_blocks, reused_blocks, alloc_total_blocks: of KV cache.
    """

    output_ids: NDArray[np.int32]
    log_probs: NDArray[np.float32] | None
    timings: Timings
    total_drafts: int
    accepted_drafts: int
    alloc_new_blocks: int
    reused_blocks: int
    alloc_total_blocks: int

    @property
    def cum_log_prob(self) -> float | None:
        """Sum of ``log_probs``."""
        return None if self.log_probs is None else float(self.log_probs.sum(dtype=np.float64))

    @property
    def acceptance_rate(self) -> float:
        """Accepted drafts over verified drafts; 0 without drafts."""
        return self.accepted_drafts / self.total_drafts if self.total_drafts else 0.0


class RunningRequest(Protocol):
    """A request that an engine has taken."""

    def result(self) -> GenerationResult | WanspecError:
        """Its answer, once ``step`` has returned it."""
        ...


class GenerationEngine(Protocol):
    """An engine that answers the contract. Calls come from one thread at a time."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    def add(self, request: GenerationRequest) -> RunningRequest:
        """Take a request; it joins the batch at the next step with room for it.

        Raises:
            InvalidRequestError: it cannot be served.
        """
        ...

    def step(self) -> Sequence[RunningRequest]:
        """Run one step of all requests that have room, and return those that ended with it."""
        ...

    def cancel(self, running: RunningRequest) -> None:
        """End a request now; its result is an error. Harmless if it has ended."""
        ...

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step."""
        ...


def generate(engine: GenerationEngine, requests: Sequence[GenerationRequest]) -> list[GenerationResult | WanspecError]:
    """Run requests as one batch to their end; a request that cannot be served gets its own error, in its place."""
    taken: list[RunningRequest | WanspecError] = []
    for request in requests:
        try:
            taken.append(engine.add(request))
        except WanspecError as error:
            taken.append(error)
    while not engine.idle:
        engine.step()
    return [entry if isinstance(entry, WanspecError) else entry.result() for entry in taken]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine was built for, as ``trtllm-build`` names it. All in tokens.

    Attributes:
        max_seq_len: prompt and output together.
        max_input_len: prompt and drafts together.
        max_draft_len: drafts of one request; 0 for an engine that is no verifier.
        vocab_size: token ids are below it.
    """

    max_seq_len: int
    max_input_len: int
    max_draft_len: int
    vocab_size: int


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
    """Validate a request as TensorRT-LLM does (TENSORRT_LLM.md section 1, "runtime validation").

    Raises:
        InvalidRequestError: it cannot be served; the message names the input.
    """
    _require_greedy(request)
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


def _require_greedy(request: GenerationRequest) -> None:
    for name, value in (("beam_width", request.beam_width), ("num_return_sequences", request.num_return_sequences)):
        if value != 1:
            raise InvalidRequestError(name, f"is {value}: only 1 is supported")
    top_k, top_p = request.runtime_top_k, request.runtime_top_p
    if top_k == 1 or (not top_k and not top_p):
        return
    if top_k:
        raise InvalidRequestError("runtime_top_k", f"is {top_k}: only greedy decoding (runtime_top_k 1) is supported")
    raise InvalidRequestError("runtime_top_p", f"is {top_p}: only greedy decoding is supported: send runtime_top_k 1")
