"""Requests and results of the TensorRT-LLM contract, free of any server and of any tensor library but numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wanspec.core.sampling import GREEDY, Sampling
from wanspec.errors import WanspecError

Words: TypeAlias = tuple[tuple[int, ...], ...]
"""Each a sequence of token ids."""

NO_TOKENS: NDArray[np.int32] = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request of the contract; names are those of its tensors.

    Attributes:
        input_ids: int32 [n], the whole prefix.
        request_output_len: most tokens to return.
        draft_input_ids: int32 [k]; with drafts, one pass verifies them and the request ends.
        draft_logits: float32 [k, vocab or more]: the distribution each draft was drawn from, as logits.
        draft_acceptance_threshold: replaces the random number of the acceptance rule; without draft_logits, nothing.
        end_id: ends the output and is not part of it.
        stop_words: a sequence of tokens that ends the output and is part of it; it may begin in the prompt.
        bad_words: sequences of tokens that are never completed.
        embedding_bias: float32 [vocab], added to the logits.
        min_tokens: end_id is not drawn before so many tokens of this request.
        temperature: None means 1; 0 is greedy.
        runtime_top_k, runtime_top_p: None and 0 mean not set; with neither, greedy.
        seed: of the noise; None means 0, as in TensorRT-LLM.
        repetition_penalty, presence_penalty, frequency_penalty: over the whole sequence, prompt included.
        beam_width, num_return_sequences: only 1.
        return_log_probs: also return the log-probability of each output token.
        return_context_logits: also return the logits at each token of the prompt.
        return_generation_logits: also return the logits that each output token was chosen from.
        arrival_ns: monotonic clock; the time of admission where not given.
    """

    input_ids: NDArray[np.int32]
    request_output_len: int
    draft_input_ids: NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    draft_logits: NDArray[np.float32] | None = None
    draft_acceptance_threshold: float | None = None
    end_id: int | None = None
    stop_words: Words = ()
    bad_words: Words = ()
    embedding_bias: NDArray[np.float32] | None = None
    min_tokens: int = 0
    temperature: float | None = None
    runtime_top_k: int | None = None
    runtime_top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    beam_width: int = 1
    num_return_sequences: int = 1
    return_log_probs: bool = False
    return_context_logits: bool = False
    return_generation_logits: bool = False
    arrival_ns: int | None = None

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn, by TensorRT-LLM's rules for what is not set."""
        top_k, top_p = self.runtime_top_k or 0, self.runtime_top_p or 0.0
        if top_k == 1 or (not top_k and not top_p):
            return GREEDY
        return Sampling(1.0 if self.temperature is None else self.temperature, top_k, top_p or 1.0, self.seed or 0)


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
        log_probs: float32 [n], natural, of each; after bias, temperature and penalties, before top-k and top-p. Greedy
            ones are taken at temperature 1. None unless asked for.
        timings: of this request.
        total_drafts: drafts that were verified.
        accepted_drafts: how many of them the model agreed with.
        alloc_new_blocks, reused_blocks, alloc_total_blocks: of KV cache.
        context_logits: float32 [prompt, vocab]; None unless asked for.
        generation_logits: float32 [n, vocab], the model's own, unchanged; None unless asked for.
        log_prob_before: sum of the log-probabilities of output tokens that are not in this result.
    """

    output_ids: NDArray[np.int32]
    log_probs: NDArray[np.float32] | None
    timings: Timings
    total_drafts: int
    accepted_drafts: int
    alloc_new_blocks: int
    reused_blocks: int
    alloc_total_blocks: int
    context_logits: NDArray[np.float32] | None = None
    generation_logits: NDArray[np.float32] | None = None
    log_prob_before: float = 0.0

    def since(self, count: int) -> GenerationResult:
        """The same without the first ``count`` output tokens: what a streaming client has not seen yet."""
        if count == 0:
            return self
        log_probs = self.log_probs
        return replace(
            self,
            output_ids=self.output_ids[count:],
            log_probs=None if log_probs is None else log_probs[count:],
            context_logits=None,
            generation_logits=None if self.generation_logits is None else self.generation_logits[count:],
            log_prob_before=0.0 if log_probs is None else float(log_probs[:count].sum(dtype=np.float64)),
        )

    @property
    def cum_log_prob(self) -> float | None:
        """Log-probability of the whole output so far; None unless log-probabilities were asked for."""
        if self.log_probs is None:
            return None
        return self.log_prob_before + float(self.log_probs.sum(dtype=np.float64))

    @property
    def acceptance_rate(self) -> float:
        """Accepted drafts over verified drafts; 0 without drafts."""
        return self.accepted_drafts / self.total_drafts if self.total_drafts else 0.0


class RunningRequest(Protocol):
    """A request that an engine has taken."""

    def result(self) -> GenerationResult | WanspecError:
        """Its answer, once ``step`` has returned it."""
        ...

    def so_far(self) -> GenerationResult | None:
        """What it would return if it ended now; None before its first token."""
        ...


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine has in hand.

    Attributes:
        active: requests or sequences that it works on.
        waiting: requests that have no place yet.
        blocks_used: of KV cache, those that active requests hold. What ended ones left for reuse is free.
        blocks_max: all blocks of the budget.
        tokens_per_block: tokens.
    """

    active: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_max: int = 0
    tokens_per_block: int = 0


@runtime_checkable
class Loaded(Protocol):
    """An engine that tells what it has in hand."""

    @property
    def load(self) -> EngineLoad:
        """From any thread."""
        ...


class GenerationEngine(Protocol):
    """An engine that answers the contract. Calls come from one thread at a time."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Most requests of one step, 0 for no limit."""
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

    @property
    def load(self) -> EngineLoad:
        """What it has in hand; from any thread."""
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
