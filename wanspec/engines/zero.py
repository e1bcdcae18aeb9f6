"""Engines that cost nothing, without torch: they show what everything around a model costs.

The "model": the next token is a hash of the last two. The "draft" knows it and errs on purpose: in each context it has
a confidence, its mean is ``agreement``, and it ranks the model's token first with just that probability, so it is
calibrated. All is deterministic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.engines.admission import Admitted, EngineLimits, admit
from wanspec.engines.choosing import chooser
from wanspec.engines.contract import (
    NO_TOKENS,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    RunningRequest,
    Timings,
    generate,
)
from wanspec.engines.pace import NO_PACE, Pace
from wanspec.errors import ConfigError, EngineError, InvalidRequestError, RequestCancelledError, WanspecError

DEFAULT_CONTEXT = 1 << 20
_WORD = 0xFFFFFFFF
_MOST_RANKS = 31
_REMEMBERED = 1 << 17


def _hash(left: int, right: int, salt: int) -> int:
    """32 well-mixed bits of two tokens."""
    word = (left * 0x9E3779B1 + right * 0x85EBCA77 + salt * 0xC2B2AE3D + 0x27D4EB2F) & _WORD
    word = ((word ^ (word >> 15)) * 0x2C1B3C6D) & _WORD
    word = ((word ^ (word >> 12)) * 0x297A2D39) & _WORD
    return word ^ (word >> 15)


@dataclass(frozen=True, slots=True)
class ZeroModel:
    """A next-token rule.

    Attributes:
        vocab_size: token ids are below it.
        agreement: probability that the rule's first choice is the target's; at 1 the rule is the target itself.
    """

    vocab_size: int = 4096
    agreement: float = 1.0

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ConfigError("vocab_size", f"is {self.vocab_size}: must be at least 2")
        if not 0 < self.agreement <= 1:
            raise ConfigError("agreement", f"is {self.agreement}: must be above 0 and at most 1")

    def target_token(self, left: int, right: int) -> int:
        """The target's choice after the tokens ``left, right`` (-1 for a token before the first)."""
        return _hash(left, right, 0) % self.vocab_size

    def confidence(self, left: int, right: int) -> float:
        """Probability that the first choice is the target's: uniform around ``agreement``, as wide as [0, 1] allows."""
        spread = min(self.agreement, 1 - self.agreement)
        return self.agreement + spread * (2 * _hash(left, right, 1) / _WORD - 1)

    def target_rank(self, left: int, right: int) -> int:
        """Where the target's token ranks among the draft's candidates: 0 if they agree, then 1/2, 1/4, ..."""
        if _hash(left, right, 2) / _WORD <= self.confidence(left, right):
            return 0
        bits = _hash(left, right, 3)
        rank = (bits & -bits).bit_length() if bits else _MOST_RANKS
        return min(rank, self.vocab_size - 1)

    def next_token(self, left: int, right: int) -> int:
        """The rule's own first choice."""
        target = self.target_token(left, right)
        if self.agreement == 1 or self.target_rank(left, right) == 0:
            return target
        return (target + 1) % self.vocab_size

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019 - models are few and live as long as the process
    def candidates(self, left: int, right: int, top: int) -> tuple[list[int], list[float], float]:
        """The ``top`` best next tokens, their log-probabilities, and the entropy (nats) of the whole distribution.

        Remembered, and so not to be changed: an engine that is to cost nothing computes nothing twice.
        """
        target, rank = self.target_token(left, right), self.target_rank(left, right)
        steps = (0 if place == rank else place + (place < rank) for place in range(top))
        tokens = [(target + step) % self.vocab_size for step in steps]
        first = min(max(self.confidence(left, right), 1e-6), 1 - 1e-6)
        log_probs = [math.log(first)] + [math.log1p(-first) - place * math.log(2) for place in range(1, top)]
        entropy = -first * math.log(first) - (1 - first) * math.log1p(-first) + (1 - first) * 2 * math.log(2)
        return tokens, log_probs, entropy


class ZeroRun:
    """One request of a :class:`ZeroEngine`: its answer is known at once and given when its steps have passed."""

    __slots__ = ("accepted", "admitted", "error", "output", "planned", "steps", "times")

    def __init__(self, admitted: Admitted, output: list[int], accepted: int) -> None:
        self.admitted, self.output, self.accepted = admitted, output, accepted
        # A request that ends at end_id needs the step that finds it.
        self.planned = self.steps = 1 if len(admitted.drafts) else min(len(output) + 1, admitted.output_len)
        self.error: WanspecError | None = None
        arrival = admitted.request.arrival_ns
        self.times = [arrival if arrival is not None else time.monotonic_ns(), 0, 0, 0]

    def result(self) -> GenerationResult | WanspecError:
        """The answer of an ended request."""
        return self.error if self.error is not None else self._result(self.output)

    def so_far(self) -> GenerationResult | None:
        """What it would return if it ended now; None before its first token."""
        passed = self.planned - self.steps
        return self._result(self.output[:passed]) if passed and self.output and self.error is None else None

    def _result(self, output: list[int]) -> GenerationResult:
        return GenerationResult(
            output_ids=np.asarray(output, dtype=np.int32) if output else NO_TOKENS,
            log_probs=np.zeros(len(output), dtype=np.float32) if self.admitted.request.return_log_probs else None,
            timings=Timings(*self.times),
            total_drafts=len(self.admitted.drafts),
            accepted_drafts=self.accepted,
            alloc_new_blocks=0,
            reused_blocks=0,
            alloc_total_blocks=0,
        )


class ZeroEngine:
    """A :class:`~wanspec.engines.contract.GenerationEngine` on a :class:`ZeroModel`: the target, or the local draft.

    With a pace, steps take as long as the batched steps of a real engine would.
    """

    def __init__(
        self,
        model: ZeroModel | None = None,
        *,
        max_draft_len: int = 0,
        max_input_len: int | None = None,
        max_seq_len: int | None = None,
        max_batch_size: int = 0,
        pace: Pace = NO_PACE,
    ) -> None:
        self._model = model or ZeroModel()
        context = max_seq_len or DEFAULT_CONTEXT
        longest = min(max_input_len or context, context)
        self.limits = EngineLimits(context, longest, max_draft_len, self._model.vocab_size, max_batch_size)
        self._pace = pace
        self._running: list[ZeroRun] = []

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._model.vocab_size

    @property
    def max_batch_size(self) -> int:
        """Most requests of one step, 0 for no limit."""
        return self.limits.max_batch_size

    @property
    def idle(self) -> bool:
        """Whether there is nothing to step."""
        return not self._running

    @property
    def load(self) -> EngineLoad:
        """What it has in hand; it has no KV cache."""
        active = len(self._batch())
        return EngineLoad(active, len(self._running) - active)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult | WanspecError]:
        """Run requests as one batch to their end; see :func:`wanspec.engines.contract.generate`."""
        return generate(self, requests)

    def add(self, request: GenerationRequest) -> ZeroRun:
        """Take a request.

        Raises:
            InvalidRequestError: it cannot be served.
        """
        _require_plain(request)
        run = self._answer(admit(request, self.limits))
        self._running.append(run)
        return run

    def cancel(self, running: RunningRequest) -> None:
        """End a request between two steps."""
        assert isinstance(running, ZeroRun), "a request of this engine"
        if running in self._running:
            self._running.remove(running)
            running.error = RequestCancelledError("the request was cancelled")

    def step(self) -> list[ZeroRun]:
        """Let one step of the requests that have a place pass, and return those that ended with it."""
        started, batch = time.monotonic_ns(), self._batch()
        rows = sum(1 if run.times[1] else 1 + len(run.admitted.drafts) for run in batch)
        now = self._pace.wait(started, rows)
        for run in batch:
            if not run.times[1]:
                run.times[1], run.times[2] = started, now
            run.times[3] = now
            run.steps -= 1
        ended = [run for run in batch if run.steps == 0]
        self._running = [run for run in self._running if run.steps]
        return ended

    def _batch(self) -> list[ZeroRun]:
        return self._running[: self.max_batch_size or None]

    def _answer(self, admitted: Admitted) -> ZeroRun:
        left, right = (-1, *admitted.prompt[-2:].tolist())[-2:]
        end_id, accepted = admitted.request.end_id, 0
        output: list[int] = []
        drafts = admitted.drafts.tolist()
        for place in range(len(drafts) + 1 if drafts else admitted.output_len):
            token = self._model.next_token(left, right)
            if token == end_id:
                break
            output.append(token)
            if drafts:
                if place == len(drafts) or token != drafts[place]:
                    break
                accepted += 1
            left, right = right, token
        return ZeroRun(admitted, output, accepted)


def _require_plain(request: GenerationRequest) -> None:
    """Refuse what the rule has no logits for."""
    if not request.sampling.greedy:
        raise InvalidRequestError("runtime_top_k", "must be 1: the zero engine has no distribution to draw from")
    if chooser(request) is not None or request.stop_words:
        raise InvalidRequestError(
            "engine", "the zero engine knows no logits: leave out penalties, biases, words lists and min_tokens"
        )
    for name in ("return_context_logits", "return_generation_logits"):
        if getattr(request, name):
            raise InvalidRequestError(name, "is not supported by the zero engine: it has no logits")


class ZeroDraftEngine:
    """A :class:`~wanspec.core.drafting.DraftEngine` on a :class:`ZeroModel`."""

    def __init__(self, model: ZeroModel, *, context: int = DEFAULT_CONTEXT, pace: Pace = NO_PACE) -> None:
        self._model = model
        self._context = context
        self._pace = pace

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._model.vocab_size

    @property
    def context(self) -> int:
        """Longest sequence in tokens, drafts included."""
        return self._context

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        """Rank the children of each leaf.

        Raises:
            EngineError: a sequence with its leaves is beyond the context, or ``top`` beyond the vocabulary.
        """
        started = time.monotonic_ns()
        if not 1 <= top <= self.vocab_size:
            raise EngineError(f"expand: top is {top}: must be from 1 to the vocabulary's {self.vocab_size}")
        found = [self._model.candidates(*pair, top) for sequence in batch for pair in self._last_two(sequence)]
        tokens: NDArray[np.int32] = np.asarray([row[0] for row in found], dtype=np.int32).reshape(-1, top)
        log_probs: NDArray[np.float32] = np.asarray([row[1] for row in found], dtype=np.float32).reshape(-1, top)
        entropies: NDArray[np.float32] = np.asarray([row[2] for row in found], dtype=np.float32)
        ended = self._pace.wait(started, len(found))
        return Expansion(tokens, log_probs, entropies, (ended - started) / 1e6)

    def release(self, key: Hashable) -> None:
        """Nothing is cached."""

    def _last_two(self, sequence: SequenceLeaves) -> list[tuple[int, int]]:
        longest = sequence.length + max(map(len, sequence.leaves), default=0)
        if not 1 <= sequence.length <= len(sequence.prefix) or longest > self._context:
            raise EngineError(f"expand: prefix and leaf are {longest} tokens, the draft's context is {self._context}")
        tail = (-1, *sequence.prefix[max(sequence.length - 2, 0) : sequence.length])[-2:]
        pairs = ((*tail, *path)[-2:] for path in sequence.leaves)
        return [(int(left), int(right)) for left, right in pairs]
