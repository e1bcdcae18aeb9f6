"""The engine of the contract on a :class:`TorchModel`: requests in, forward steps batched over all of them.

With drafts, one pass over the uncached prefix and the drafts, then the request ends (``docs/engines.md``).
Without, plain generation. A step takes one token of every request that is generating, and prompts (or the drafts to
verify) in what is left of ``max_num_tokens`` rows, so that a long prompt delays the others by one step's length only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.engines.admission import EngineLimits, admit
from wanspec.engines.contract import EngineLoad, GenerationRequest, GenerationResult, RunningRequest, generate
from wanspec.engines.kv_cache import default_kv_tokens
from wanspec.engines.pace import NO_PACE, Pace
from wanspec.engines.prefix_pool import TOKENS_PER_BLOCK, PrefixPool
from wanspec.engines.running import Generation, share_rows
from wanspec.engines.segments import Segment
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import EngineError, RequestCancelledError, WanspecError

DEFAULT_MAX_NUM_TOKENS = 512


class TorchEngine:
    """Serves the contract: ``add`` requests at any time, ``step`` until they have ended. One thread at a time.

    A request starts when the KV budget has room for it; requests start in order.
    """

    def __init__(
        self,
        model: TorchModel,
        *,
        max_draft_len: int = 0,
        max_input_len: int | None = None,
        kv_tokens: int | None = None,
        max_num_tokens: int = DEFAULT_MAX_NUM_TOKENS,
        max_batch_size: int = 0,
        pace: Pace = NO_PACE,
    ) -> None:
        """Serve ``model``; limits that are not given are the model's own context, and :func:`default_kv_tokens`.

        ``max_num_tokens`` is the most rows of one step, ``max_batch_size`` the most requests (0: as many as rows).
        """
        context = model.context
        longest = min(max_input_len or context, context)
        self.limits = EngineLimits(context, longest, max_draft_len, model.vocab_size, max_batch_size)
        self._model = model
        self._pool = PrefixPool(model.kv_shape, kv_tokens or default_kv_tokens(model.kv_shape))
        self._max_num_tokens = max_num_tokens
        self._most = min(max_batch_size or max_num_tokens, max_num_tokens)
        self._pace = pace
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.limits.vocab_size

    @property
    def max_batch_size(self) -> int:
        """Most requests of one step, 0 for no limit."""
        return self.limits.max_batch_size

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step."""
        return not self._waiting and not self._running

    @property
    def load(self) -> EngineLoad:
        """What it has in hand; from any thread."""
        return EngineLoad(len(self._running), len(self._waiting), *self._pool.blocks, TOKENS_PER_BLOCK)

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
        batch, segments = self._plan()
        if not batch:
            return []
        try:
            self._run(batch, segments)
        except Exception as error:
            self._fail(batch, error)
            return batch
        now = self._pace.wait(started, sum(len(segment.tokens) for segment in segments))
        for generation in batch:
            generation.time_step(started, now)
        return self._retire(batch)

    def _schedule(self) -> None:
        while self._waiting and len(self._running) < self._most:
            generation = self._waiting[0]
            admitted = generation.admitted
            # Logits of the whole prompt are those of a prompt that is computed.
            prompt = admitted.prompt[:1] if admitted.request.return_context_logits else admitted.prompt
            lease = self._pool.acquire(prompt, admitted.cache_tokens)
            if lease is None:
                return
            generation.lease, generation.cached = lease, lease.reused
            self._running.append(self._waiting.popleft())

    def _plan(self) -> tuple[list[Generation], list[Segment]]:
        """Requests of the next pass, and their parts of it."""
        prefilling = [generation for generation in self._running if not generation.output]
        room = self._max_num_tokens - (len(self._running) - len(prefilling))
        shares = iter(share_rows([generation.remaining for generation in prefilling], room))
        batch, segments = [], []
        for generation in self._running:
            rows = 1 if generation.output else next(shares)
            if rows:
                batch.append(generation)
                segments.append(generation.segment(rows))
        return batch, segments

    @torch.inference_mode()
    def _run(self, batch: Sequence[Generation], segments: Sequence[Segment]) -> None:
        logits = self._model.forward(segments)
        best, log_probs = _best(batch, logits)
        last = 0
        for generation in batch:
            first, last = last, last + generation.wanted
            rows = slice(first, last)
            if generation.admitted.request.return_context_logits and not generation.output:
                generation.keep_context_logits(logits[rows])
                rows = slice(last - 1, last)
            if not generation.chooses:
                generation.skip()
            elif generation.chooser is None:
                assert best is not None, "a plain request is in the batch"
                wants = generation.admitted.request.return_log_probs and log_probs is not None
                generation.take(
                    generation.agree(best[rows], log_probs[rows] if wants and log_probs is not None else None),
                    logits[rows],
                )
            else:
                generation.take(generation.choose(logits[rows]), logits[rows])

    def _retire(self, batch: list[Generation]) -> list[Generation]:
        ended = [generation for generation in batch if generation.ended]
        for generation in ended:
            assert generation.lease is not None, "it ran"
            self._pool.release(generation.lease, generation.cached_tokens())
        self._running = [generation for generation in self._running if not generation.ended]
        return ended

    def _fail(self, batch: list[Generation], error: Exception) -> None:
        """A failed pass ends its requests; their buffers are not trusted again."""
        for generation in batch:
            assert generation.lease is not None, "it ran"
            self._pool.discard(generation.lease)
            generation.ended = True
            generation.error = EngineError(f"the forward pass failed: {type(error).__name__}: {error}")
        self._running = [generation for generation in self._running if not generation.ended]


def _best(
    batch: Sequence[Generation], logits: torch.Tensor
) -> tuple[NDArray[np.int64] | None, NDArray[np.float32] | None]:
    """The largest logit of each row and its log-probability, as far as plain requests of the batch need them."""
    plain = [generation.admitted.request for generation in batch if generation.chooser is None]
    if not plain:
        return None, None
    # argmax returns the first, hence lowest, id on ties.
    chosen = logits.argmax(dim=-1)
    log_probs = None
    if any(request.return_log_probs for request in plain):
        wide = logits if logits.dtype == torch.float64 else logits.float()
        picked = wide.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        log_probs = (picked - wide.logsumexp(dim=-1)).float().cpu().numpy()
    return chosen.cpu().numpy(), log_probs
