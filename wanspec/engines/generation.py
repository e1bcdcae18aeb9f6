"""The engine of the contract on a :class:`TorchModel`: requests in, forward steps batched over all of them.

Greedy. With drafts, one pass over the uncached prefix and the drafts, then the request ends (TENSORRT_LLM.md
sections 1 and 2). Without, plain generation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.engines.contract import (
    Admitted,
    EngineLimits,
    GenerationRequest,
    GenerationResult,
    RunningRequest,
    Timings,
    admit,
    generate,
)
from wanspec.engines.pace import NO_PACE, Pace
from wanspec.engines.prefix_pool import Lease, PrefixPool, count_blocks
from wanspec.engines.segments import Segment, append_segment
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import EngineError, RequestCancelledError, WanspecError

DEFAULT_MAX_NUM_TOKENS = 8192


class Generation:
    """One running request: what is cached, what came out."""

    __slots__ = ("accepted", "admitted", "cached", "ended", "error", "lease", "log_probs", "output", "times")

    def __init__(self, admitted: Admitted) -> None:
        self.admitted = admitted
        self.lease: Lease | None = None
        self.cached = 0
        self.output: list[int] = []
        self.log_probs: list[float] = []
        self.accepted = 0
        self.ended = False
        self.error: WanspecError | None = None
        arrival = admitted.request.arrival_ns
        self.times = [arrival if arrival is not None else time.monotonic_ns(), 0, 0, 0]

    @property
    def new_tokens(self) -> int:
        """Rows of its next step."""
        return len(self.admitted.prompt) - self.cached + len(self.admitted.drafts) if not self.output else 1

    def segment(self) -> Segment:
        """Its part of the next forward pass."""
        assert self.lease is not None, "scheduled before a step"
        if self.output:
            return append_segment(self.lease.buffer, self.cached, self.output[-1:], 1)
        drafts = self.admitted.drafts
        tokens = np.concatenate((self.admitted.prompt[self.cached :], drafts))
        return append_segment(self.lease.buffer, self.cached, tokens, len(drafts) + 1)

    def take(self, tokens: NDArray[np.int64], log_probs: NDArray[np.float32] | None) -> None:
        """Take the model's choice at each wanted row of a step: ``[1]``, or ``[k + 1]`` when drafts were verified."""
        first = not self.output
        drafts = self.admitted.drafts if first else self.admitted.drafts[:0]
        agreed = tokens[:-1] == drafts
        accepted = len(drafts) if agreed.all() else int(agreed.argmin())
        chosen = tokens[: accepted + 1].tolist()
        stop = chosen.index(self.admitted.request.end_id) if self.admitted.request.end_id in chosen else len(chosen)
        self.cached = (len(self.admitted.prompt) if first else self.cached + 1) + min(accepted, stop)
        if first:
            self.accepted = min(accepted, stop)
        self.output += chosen[:stop]
        if log_probs is not None:
            self.log_probs += log_probs[:stop].tolist()
        self.ended = stop < len(chosen) or len(drafts) > 0 or len(self.output) >= self.admitted.output_len

    def cached_tokens(self) -> NDArray[np.int32]:
        """The tokens whose keys and values are in the buffer."""
        return np.concatenate((self.admitted.prompt, np.asarray(self.output, dtype=np.int32)))[: self.cached]

    def result(self) -> GenerationResult | WanspecError:
        """The answer of an ended request."""
        if self.error is not None:
            return self.error
        assert self.lease is not None, "an ended request ran"
        blocks = count_blocks(self.lease.reused, self.cached)
        return GenerationResult(
            output_ids=np.asarray(self.output, dtype=np.int32),
            log_probs=np.asarray(self.log_probs, dtype=np.float32) if self.admitted.request.return_log_probs else None,
            timings=Timings(*self.times),
            total_drafts=len(self.admitted.drafts),
            accepted_drafts=self.accepted,
            alloc_new_blocks=blocks.alloc_new,
            reused_blocks=blocks.reused,
            alloc_total_blocks=blocks.alloc_total,
        )


class TorchEngine:
    """Serves the contract: ``add`` requests at any time, ``step`` until they have ended. One thread at a time.

    A request starts when the KV budget and ``max_num_tokens`` have room for it; requests start in order.
    """

    def __init__(
        self,
        model: TorchModel,
        *,
        max_draft_len: int = 0,
        max_input_len: int | None = None,
        kv_tokens: int | None = None,
        max_num_tokens: int = DEFAULT_MAX_NUM_TOKENS,
        pace: Pace = NO_PACE,
    ) -> None:
        """Serve ``model``; limits that are not given are the model's own context, and four contexts of KV cache."""
        context = model.context
        self.limits = EngineLimits(context, min(max_input_len or context, context), max_draft_len, model.vocab_size)
        self._model = model
        self._pool = PrefixPool(model.kv_shape, kv_tokens or 4 * context)
        self._max_num_tokens = max_num_tokens
        self._pace = pace
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.limits.vocab_size

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step."""
        return not self._waiting and not self._running

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult | WanspecError]:
        """Run requests as one batch to their end; see :func:`wanspec.engines.contract.generate`."""
        return generate(self, requests)

    def add(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            InvalidRequestError: it cannot be served.
        """
        generation = Generation(admit(request, self.limits))
        self._waiting.append(generation)
        return generation

    def cancel(self, running: RunningRequest) -> None:
        """End a request between two steps; what it has computed stays reusable."""
        assert isinstance(running, Generation), "a request of this engine"
        if running.ended:
            return
        running.ended, running.error = True, RequestCancelledError("the request was cancelled")
        if running in self._waiting:
            self._waiting.remove(running)
        elif running.lease is not None:
            self._running.remove(running)
            self._pool.release(running.lease, running.cached_tokens())

    def step(self) -> list[Generation]:
        """Run one forward pass over all requests that have room, and return those that ended with it."""
        self._schedule()
        started = time.monotonic_ns()
        batch = self._running
        if not batch:
            return []
        try:
            tokens, log_probs, rows = self._forward(batch)
        except Exception as error:
            self._fail(batch, error)
            return batch
        now = self._pace.wait(started, rows)
        first = 0
        for generation in batch:
            last = first + (len(generation.admitted.drafts) + 1 if not generation.output else 1)
            if not generation.output:
                generation.times[1], generation.times[2] = started, now
            generation.times[3] = now
            wants = log_probs is not None and generation.admitted.request.return_log_probs
            generation.take(tokens[first:last], log_probs[first:last] if wants and log_probs is not None else None)
            first = last
        return self._retire(batch)

    def _schedule(self) -> None:
        room = self._max_num_tokens - len(self._running)
        while self._waiting:
            generation = self._waiting[0]
            admitted = generation.admitted
            if self._running and len(admitted.prompt) > room:
                # Only what is left after reuse counts, but that is known only once the buffer is lent.
                return
            lease = self._pool.acquire(admitted.prompt, admitted.cache_tokens)
            if lease is None:
                return
            generation.lease, generation.cached = lease, lease.reused
            room -= generation.new_tokens
            self._running.append(self._waiting.popleft())

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Generation]) -> tuple[NDArray[np.int64], NDArray[np.float32] | None, int]:
        segments = [generation.segment() for generation in batch]
        logits = self._model.forward(segments)
        # argmax returns the first, hence lowest, id on ties.
        chosen = logits.argmax(dim=-1)
        log_probs = None
        if any(generation.admitted.request.return_log_probs for generation in batch):
            wide = logits if logits.dtype == torch.float64 else logits.float()
            picked = wide.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
            log_probs = (picked - wide.logsumexp(dim=-1)).float().cpu().numpy()
        return chosen.cpu().numpy(), log_probs, sum(len(segment.tokens) for segment in segments)

    def _retire(self, batch: list[Generation]) -> list[Generation]:
        ended = [generation for generation in batch if generation.ended]
        for generation in ended:
            assert generation.lease is not None, "it ran"
            self._pool.release(generation.lease, generation.cached_tokens())
        self._running = [generation for generation in batch if not generation.ended]
        return ended

    def _fail(self, batch: list[Generation], error: Exception) -> None:
        """A failed pass ends its requests; their buffers are not trusted again."""
        for generation in batch:
            assert generation.lease is not None, "it ran"
            self._pool.discard(generation.lease)
            generation.ended = True
            generation.error = EngineError(f"the forward pass failed: {type(error).__name__}: {error}")
        self._running = []
