"""Token sources without models: each position's kind is a hash of the tokens before it.

So the target is a function of its prefix, whoever drafts and however: policies are compared on the same text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.sampling import GREEDY, Sampling
from wanspec.simulation.laws import RANKS, Table, make_table

Words = NDArray[np.uint64]

_WORD = (1 << 64) - 1
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FEW = 10
_RANK_STEPS = np.arange(RANKS, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class TablePair:
    """A target and a draft whose positions are independent rows of a table.

    The row, the target's token and the draft's children are hashes of position and the two tokens before it.

    Attributes:
        table: kinds of position; the reference source by default.
        seed: another seed, another text.
        vocab_size: token ids are below it.
    """

    table: Table = field(default_factory=make_table, repr=False)
    seed: int = 0
    vocab_size: int = 50_000

    def target(self, tokens: Sequence[int], sampling: Sampling = GREEDY) -> int:
        """The target's next token."""
        word = self._word(tokens)
        chance = (word >> 16 & 0xFFFFFF) / (1 << 24)
        rank = bisect_right(self.table.truth[word & 0xFFFF], chance)
        return ((word >> 40) + rank) % self.vocab_size

    def log_prob(self, tokens: Sequence[int], token: int, sampling: Sampling = GREEDY) -> float:
        """What the target says of the token it has chosen: it is as sure as the draft ought to be."""
        return float(self.table.target_log_probs[self._word(tokens) & 0xFFFF])

    def draft(self, tokens: Sequence[int], top: int, sampling: Sampling = GREEDY) -> list[tuple[int, float]]:
        """The draft's ``top`` children with log-probabilities, best first; it has 4."""
        word = self._word(tokens)
        stated = self.table.log_probs[word & 0xFFFF]
        return [(((word >> 40) + i) % self.vocab_size, float(stated[i])) for i in range(min(top, RANKS))]

    def expand(self, batch: Sequence[SequenceLeaves], top: int, engine_ms: float) -> Expansion:
        """One pass of the draft over many leaves."""
        sums = self._sums(batch)
        top, table = min(top, RANKS), self.table
        rows: Any
        if len(sums) < _FEW:  # numpy's overhead is more than the work
            words = list(map(_mix, sums))
            rows = np.array([word & 0xFFFF for word in words])
            flat: list[int] = []
            for word in words:
                flat += self._children(word >> 40, top)
            tokens = np.array(flat, dtype=np.int32).reshape(-1, top)
        else:
            mixed = _mix_many(np.array(sums, dtype=np.uint64))
            rows = (mixed & np.uint64(0xFFFF)).astype(np.int64)
            first = (mixed >> np.uint64(40)).astype(np.int64)
            tokens = ((first[:, None] + _RANK_STEPS[:top]) % self.vocab_size).astype(np.int32)
        said = table.said.take(rows, 0)
        return Expansion(tokens, said[:, :top], said[:, RANKS], engine_ms)

    def _children(self, first: int, top: int) -> Sequence[int]:
        vocab = self.vocab_size
        first %= vocab
        return range(first, first + top) if first + top <= vocab else [(first + i) % vocab for i in range(top)]

    def _word(self, tokens: Sequence[int]) -> int:
        return context_word(self.seed, len(tokens), tokens[-1], tokens[-2] if len(tokens) > 1 else 0)

    def _sums(self, batch: Sequence[SequenceLeaves]) -> list[int]:
        sums = []
        by_length, by_last, by_previous = _FACTORS
        for item in batch:
            prefix, length = item.prefix, item.length
            base = self.seed + length * by_length
            last, before = prefix[length - 1], prefix[length - 2] if length > 1 else 0
            for leaf in item.leaves:
                deep = len(leaf)
                one = leaf[-1] if deep else last
                two = leaf[-2] if deep > 1 else last if deep else before
                sums.append((base + deep * by_length + one * by_last + two * by_previous) & _WORD)
        return sums


def context_word(seed: int, length: int, last: int, previous: int) -> int:
    """64 bits that stand for a context: its length and its last two tokens."""
    return _mix(seed + length * _FACTORS[0] + last * _FACTORS[1] + previous * _FACTORS[2])


def _mix(value: int) -> int:
    value &= _WORD
    value = ((value ^ (value >> 30)) * _FIRST) & _WORD
    value = ((value ^ (value >> 27)) * _SECOND) & _WORD
    return value ^ (value >> 31)


def _mix_many(values: Words) -> Words:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: Words = values ^ (values >> np.uint64(31))
    return mixed


def reference(seed: int = 0, **changes: Any) -> TablePair:
    """The reference source: :data:`~wanspec.simulation.laws.REFERENCE`, calibrated."""
    return TablePair(make_table(**changes), seed)
