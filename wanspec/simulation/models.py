"""Models without weights: a target that is a function of the last tokens, and a draft that agrees with it sometimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.events import Draft, Verify
from wanspec.core.sampling import GREEDY, Sampling, ranked, sample

_MASK = (1 << 64) - 1


def _mix(*values: int) -> int:
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = ((state ^ (value + 0x632BE59BD9B4E019)) * 0xBF58476D1CE4E5B9) & _MASK
        state ^= state >> 27
    return state


def _varied_log_prob(token: int) -> float:
    return -0.05 - (token % 7) / 5


class Pair(Protocol):
    """A target and a draft as functions of the tokens so far."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token."""
        ...

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """What the target says of ``token``, its choice after ``tokens``; natural logarithm."""
        ...

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first."""
        ...

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        ...


def verify(pair: Pair, action: Verify) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """What the target answers: drafts that it would have chosen and a token of its own, with log-probabilities."""
    tokens = list(action.prefix[: action.length])
    log_probs = []
    for draft in (*action.drafts, None):
        token = pair.target(tokens, action.sampling)
        log_probs.append(pair.log_prob(tokens, token, action.sampling))
        tokens.append(token)
        if token != draft:
            break
    return tuple(tokens[action.length :]), tuple(log_probs)


def draft(pair: Pair, action: Draft) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """What the local draft answers: tokens with their log-probabilities."""
    tokens = [*action.prefix[: action.length], *action.path]
    log_probs = []
    for _ in range(action.count):
        token, log_prob = pair.draft(tokens, 1, action.sampling)[0]
        log_probs.append(log_prob)
        tokens.append(token)
    return tuple(tokens[len(tokens) - action.count :]), tuple(log_probs)


@dataclass(frozen=True, slots=True)
class SampledPair:
    """A pair with distributions: logits are hashes of the last tokens, and the draft's are those with an error.

    Attributes:
        error: standard deviation of the draft's logits from the target's.
        vocab_size: tokens.
        sharpness: mean lead of the largest logit over the next.
        seed: another seed, another pair.
    """

    error: float = 0.6
    vocab_size: int = 1_000
    sharpness: float = 1.5
    seed: int = 0

    def logits(self, tokens: Sequence[int], *, of_draft: bool = False) -> NDArray[np.float64]:
        """Logits [vocab] of the next token."""
        context = _mix(self.seed, len(tokens), tokens[-1], tokens[-2] if len(tokens) > 1 else -1)
        logits: NDArray[np.float64] = self.sharpness * np.random.default_rng(context).standard_exponential(
            self.vocab_size
        )
        if of_draft:
            logits += self.error * np.random.default_rng(context ^ _MASK).standard_normal(self.vocab_size)
        return logits

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token."""
        return sample(self.logits(tokens), sampling, len(tokens))

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """A stand-in that varies with the token."""
        return _varied_log_prob(token)

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first."""
        best = ranked(self.logits(tokens, of_draft=True), sampling, len(tokens), top)
        return list(zip(best.ids.tolist(), best.log_probs.tolist(), strict=True))

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        rows = []
        for item in batch:
            prefix = list(item.prefix[: item.length])
            for leaf in item.leaves:
                path = [*prefix, *leaf]
                logits = self.logits(path, of_draft=True)
                rows.append(ranked(logits, item.sampling or GREEDY, len(path), max(top, 2)))
        return Expansion(
            np.array([row.ids[:top] for row in rows], dtype=np.int32),
            np.array([row.log_probs[:top] for row in rows], dtype=np.float32),
            np.array([row.entropy for row in rows], dtype=np.float32),
            engine_ms,
            np.array([row.scores[0] - row.scores[1] for row in rows], dtype=np.float32),
        )

    def generate(self, prompt: Sequence[int], count: int, sampling: Sampling = GREEDY) -> list[int]:
        """Target-only output of ``count`` tokens."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(self.target(tokens, sampling))
        return tokens[len(prompt) :]


@dataclass(frozen=True, slots=True)
class HashedPair:
    """A deterministic pair, whatever the sampling: one token has all the probability.

    The draft's best child is the target's token in a share ``match`` of contexts.

    Attributes:
        match: share of contexts in which the draft's first choice is the target's token.
        vocab_size: tokens.
        end_share: share of contexts in which the target ends the text with token 0.
        seed: another seed, another pair.
    """

    match: float = 0.8
    vocab_size: int = 1_000
    end_share: float = 0.0
    seed: int = 0

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token."""
        draw = _mix(self.seed, len(tokens), tokens[-1], tokens[-2] if len(tokens) > 1 else -1)
        if (draw >> 40) / (1 << 24) < self.end_share:
            return 0
        return 1 + draw % (self.vocab_size - 1)

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """A stand-in that varies with the token."""
        return _varied_log_prob(token)

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first."""
        truth = self.target(tokens)
        draw = _mix(self.seed + 1, len(tokens), truth, tokens[-1])
        rank = 0 if (draw >> 40) / (1 << 24) < self.match else 1 + draw % 4
        ranked = [1 + (truth + i) % (self.vocab_size - 1) for i in range(max(top, rank) + 1)]
        ranked.remove(truth) if truth in ranked else None
        ranked.insert(rank, truth)
        best = 0.55 + 0.44 * ((draw >> 8) % 1000) / 1000
        rest = (1.0 - best) / 2
        return [(token, log(best if i == 0 else rest / (1 << (i - 1)))) for i, token in enumerate(ranked[:top])]

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        rows = []
        for item in batch:
            prefix = list(item.prefix[: item.length])
            rows += [self.draft([*prefix, *leaf], top) for leaf in item.leaves]
        tokens = np.array([[t for t, _ in row] for row in rows], dtype=np.int32)
        log_probs = np.array([[p for _, p in row] for row in rows], dtype=np.float32)
        entropies = (2.0 * (1.0 - np.exp(log_probs[:, 0]))).astype(np.float32)
        return Expansion(tokens, log_probs, entropies, engine_ms)

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        """Target-only greedy output, up to and without the end token 0."""
        tokens = list(prompt)
        for _ in range(count):
            token = self.target(tokens)
            if token == 0:
                break
            tokens.append(token)
        return tokens[len(prompt) :]
