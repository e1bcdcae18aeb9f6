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

import numpy as np
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.engines.contract import (
    NO_TOKENS,
    Admitted,
    EngineLimits,
    GenerationRequest,
    GenerationResult,
    Timings,
    admit,
)
from wanspec.engines.pace import NO_PACE, Pace
from wanspec.errors import ConfigError, EngineError, WanspecError

DEFAULT_CONTEXT = 1 << 20
_WORD = 0xFFFFFFFF
_MOST_RANKS = 31


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

    def candidates(self, left: int, right: int, top: int) -> tuple[list[int], list[float], float]:
        """The ``top`` best next tokens, their log-probabilities, and the entropy (nats) of the whole distribution."""
        target, rank = self.target_token(left, right), self.target_rank(left, right)
        tokens = [target if place == rank else (target + 1 + place) % self.vocab_size for place in range(top)]
        if rank >= top and top == self.vocab_size:
            tokens[-1] = target
        first = min(max(self.confidence(left, right), 1e-6), 1 - 1e-6)
        log_probs = [math.log(first)] + [math.log1p(-first) - place * math.log(2) for place in range(1, top)]
        entropy = -first * math.log(first) - (1 - first) * math.log1p(-first) + (1 - first) * 2 * math.log(2)
        return tokens, log_probs, entropy


class ZeroEngine:
    """A :class:`~wanspec.engines.contract.GenerationEngine` on a :class:`ZeroModel`: the target, or the local draft."""

    def __init__(
        self,
        model: ZeroModel | None = None,
        *,
        max_draft_len: int = 0,
        max_input_len: int | None = None,
        max_seq_len: int | None = None,
        pace: Pace = NO_PACE,
    ) -> None:
        self._model = model or ZeroModel()
        context = max_seq_len or DEFAULT_CONTEXT
        self.limits = EngineLimits(
            context, min(max_input_len or context, context), max_draft_len, self._model.vocab_size
        )
        self._pace = pace

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._model.vocab_size

    def generate(self, requests: Sequence[GenerationRequest]) -> list[GenerationResult | WanspecError]:
        """Answer a batch; with a pace, steps take as long as the batched steps of a real engine would."""
        started = time.monotonic_ns()
        answers: list[tuple[Admitted, list[int], int] | WanspecError] = []
        for request in requests:
            try:
                answers.append(self._answer(admit(request, self.limits)))
            except WanspecError as error:
                answers.append(error)
        ends = self._step_ends(started, answers)
        return [answer if isinstance(answer, WanspecError) else _result(*answer, started, ends) for answer in answers]

    def _answer(self, admitted: Admitted) -> tuple[Admitted, list[int], int]:
        left, right = (-1, *admitted.prompt[-2:].tolist())[-2:]
        end_id, output, accepted = admitted.request.end_id, [], 0
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
        return admitted, output, accepted

    def _step_ends(self, started: int, answers: Sequence[tuple[Admitted, list[int], int] | WanspecError]) -> list[int]:
        served = [answer for answer in answers if not isinstance(answer, WanspecError)]
        steps = max((1 if len(admitted.drafts) else len(output) for admitted, output, _ in served), default=0)
        ends = [started]
        for step in range(max(steps, 1)):
            rows = sum(1 + (len(admitted.drafts) if step == 0 else 0) for admitted, _, _ in served)
            ends.append(self._pace.wait(ends[-1], rows))
        return ends


def _result(admitted: Admitted, output: list[int], accepted: int, started: int, ends: list[int]) -> GenerationResult:
    arrival = admitted.request.arrival_ns
    last = 1 if len(admitted.drafts) else max(len(output), 1)
    return GenerationResult(
        output_ids=np.asarray(output, dtype=np.int32) if output else NO_TOKENS,
        log_probs=np.zeros(len(output), dtype=np.float32) if admitted.request.return_log_probs else None,
        timings=Timings(arrival if arrival is not None else started, started, ends[1], ends[last]),
        total_drafts=len(admitted.drafts),
        accepted_drafts=accepted,
        alloc_new_blocks=0,
        reused_blocks=0,
        alloc_total_blocks=0,
    )


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
