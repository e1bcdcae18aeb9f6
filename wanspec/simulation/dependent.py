"""Sources whose positions depend on each other, or whose target samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.sampling import GREEDY, Ranked, Sampling, ranked, sample
from wanspec.simulation.laws import make_table, mixture_of
from wanspec.simulation.sources import TablePair, context_word

Floats = NDArray[np.float64]

CANDIDATES = 32
CONTEXTS = 4_096
COUPLED_ERROR = 1.0
"""Standard deviation of the draft's logits from the target's at which 0.66 of first children are drawn at T = 1.

By margin they are drawn about as often as on the small pair (``docs/sampling.md``)."""


def markov(first: float = 0.80, given: float = 0.83, seed: int = 0, sharpness: float = 1.0) -> MarkovPair:
    """A source in which a match is more probable after a match.

    Args:
        first: share of all positions at which the draft's first child is right.
        given: the same where it was right at the position before.
        seed: of the text.
        sharpness: as in :func:`~wanspec.simulation.laws.make_table`.
    """
    otherwise = first * (1.0 - given) / (1.0 - first)
    return MarkovPair(
        TablePair(make_table(mixture_of(given), sharpness), seed),
        TablePair(make_table(mixture_of(otherwise), sharpness), seed),
    )


@dataclass(frozen=True, slots=True)
class MarkovPair:
    """Two sources of the same tokens: ``after_match`` where the token before was the draft's first child."""

    after_match: TablePair
    after_miss: TablePair

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.after_match.vocab_size

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token."""
        return self._at(tokens).target(tokens)

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """What the target says of its choice."""
        return self._at(tokens).log_prob(tokens, token)

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first; it has 4."""
        return self._at(tokens).draft(tokens, top)

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        first = self.after_match.expand(batch, top, engine_ms)
        other = self.after_miss.expand(batch, top, engine_ms)
        matched = np.array([self._matched(tail) for tail in tails(batch)])
        return Expansion(
            first.tokens,
            np.where(matched[:, None], first.log_probs, other.log_probs),
            np.where(matched, first.entropies, other.entropies),
            engine_ms,
        )

    def _at(self, tokens: Sequence[int]) -> TablePair:
        return self.after_match if self._matched((len(tokens), *tokens[-3:])) else self.after_miss

    def _matched(self, tail: tuple[int, ...]) -> bool:
        length, *last = tail
        if len(last) < 2:
            return True
        before = last[-3] if len(last) > 2 else 0
        word = context_word(self.after_match.seed, length - 1, last[-2], before)
        return (word >> 40) % self.vocab_size == last[-1]


def tails(batch: Sequence[SequenceLeaves]) -> list[tuple[int, ...]]:
    """For each leaf of a batch, its length in tokens and its last three tokens."""
    found = []
    for item in batch:
        end = tuple(item.prefix[max(0, item.length - 3) : item.length])
        found += [(item.length + len(leaf), *(end + leaf)[-3:]) for leaf in item.leaves]
    return found


@dataclass(frozen=True, slots=True)
class CoupledPair:
    """A target that samples, and a draft that draws with the same noise from logits that are a little off.

    A context has 32 candidates. Target and draft differ by ``error``; the noise is that of
    :mod:`wanspec.core.sampling`, keyed by request and context.

    Attributes:
        seed: of the text.
        error: standard deviation of the draft's logits from the target's.
        vocab_size: token ids are below it.
    """

    seed: int = 0
    error: float = COUPLED_ERROR
    vocab_size: int = 50_000
    _logits: tuple[Floats, Floats] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_logits", _logits(self.error))

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token."""
        word = self._word(tokens)
        return self._token(word, sample(self._logits[0][word % CONTEXTS], _keyed(sampling, word), 0))

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """What the target says of ``token``."""
        word = self._word(tokens)
        return float(self._logits[0][word % CONTEXTS][(token - (word >> 40)) % self.vocab_size])

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first."""
        word = self._word(tokens)
        best = self._ranked(word, sampling, top)
        return [(self._token(word, i), p) for i, p in zip(best.ids.tolist(), best.log_probs.tolist(), strict=True)]

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        drawn_by = [item.sampling or GREEDY for item in batch for _ in item.leaves]
        words = [context_word(self.seed, length, last[-1], (0, *last)[-2]) for length, *last in tails(batch)]
        rows = [self._ranked(word, by, max(top, 2)) for word, by in zip(words, drawn_by, strict=True)]
        return Expansion(
            np.array([[self._token(w, i) for i in r.ids[:top].tolist()] for w, r in zip(words, rows, strict=True)]),
            np.array([row.log_probs[:top] for row in rows], dtype=np.float32),
            np.array([row.entropy for row in rows], dtype=np.float32),
            engine_ms,
            np.array([row.scores[0] - row.scores[1] for row in rows], dtype=np.float32),
        )

    def _ranked(self, word: int, sampling: Sampling, top: int) -> Ranked:
        return ranked(self._logits[1][word % CONTEXTS], _keyed(sampling, word), 0, top)

    def _word(self, tokens: Sequence[int]) -> int:
        return context_word(self.seed, len(tokens), tokens[-1], tokens[-2] if len(tokens) > 1 else 0)

    def _token(self, word: int, candidate: int) -> int:
        return ((word >> 40) + candidate) % self.vocab_size


def _keyed(sampling: Sampling, word: int) -> Sampling:
    # Candidates have the same numbers in every context, so the context has to be part of the noise's key.
    return sampling if sampling.greedy else Sampling(sampling.temperature, 0, 1.0, sampling.seed ^ word)


@lru_cache(maxsize=8)
def _logits(error: float) -> tuple[Floats, Floats]:
    """Log-probabilities [CONTEXTS, CANDIDATES] of target and draft."""
    choose = np.random.default_rng(20_260_221)
    sure = np.sort(make_table(mixture_of(0.5)).truth[:, 0])[:: (1 << 16) // CONTEXTS]
    tail = choose.standard_exponential((CONTEXTS, CANDIDATES - 1))
    tail = -np.sort(-(tail**2), axis=1)
    rest = (1.0 - sure)[:, None] * tail / tail.sum(axis=1, keepdims=True)
    target = np.log(np.maximum(np.concatenate((sure[:, None], rest), axis=1), 1e-9))
    choose.shuffle(target, axis=0)
    draft = target + error * choose.standard_normal(target.shape)
    draft -= np.log(np.exp(draft).sum(axis=1, keepdims=True))
    return target, draft
