"""Coupled sampling: the noise of a token depends on the seed, its position and its id, and on nothing else.

Daliri, Musco and Suresh, arXiv 2408.07978; ``docs/sampling.md``. Whoever samples adds the same noise to its *own*
filtered log-probabilities and takes the largest, so that target and draft agree more often than by independent draws,
and the target's output does not depend on what was drafted.

The noise, exactly, so that any engine can reproduce it. All words are unsigned, 64 bits, and wrap::

    mix(x):  x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9;  x ^= x >> 27;  x *= 0x94D049BB133111EB;  x ^= x >> 31
    key    = mix(mix(mix(seed + G) + position + G) + stream + G)     where G = 0x9E3779B97F4A7C15
    bits   = mix(key + (token + 1) * G)
    u      = ((bits >> 11) | 1) / 2**53                              in (0, 1), exact in float64
    gumbel = -log(-log(u))                                           float64

``u`` is the same everywhere; logarithms of another math library may differ in the last bit, which matters only where
two scores are as close as that. ``position`` is the index of the token in the whole sequence, prompt included.
``stream`` separates draws that must be independent of each other (:class:`Stream`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.errors import InvalidRequestError

Logits = NDArray[Any]
"""Floating point, [vocab]."""

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_SHIFTS_AND_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_SPARSE_TOP_K = 8
"""Selecting pays where top-k is less than this part of the vocabulary."""


class Stream(IntEnum):
    """Which of the independent draws at a position."""

    TOKEN = 0
    """The token itself: shared by target and draft."""
    ACCEPTANCE = 1
    """Whether a draft that came with its distribution is accepted."""
    RESIDUAL = 2
    """What replaces such a draft."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of one sequence are drawn.

    Attributes:
        temperature: 0 is greedy.
        top_k: most tokens that may be drawn; 0 for no limit.
        top_p: probability that the tokens to draw from must reach; 1 for all of them.
        seed: of the noise, 64 bits.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise InvalidRequestError("temperature", f"is {self.temperature}: must be 0 (greedy) or more")
        if self.top_k < 0:
            raise InvalidRequestError("top_k", f"is {self.top_k}: must be 0 (no limit) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidRequestError("top_p", f"is {self.top_p}: must be above 0 and at most 1")
        if not 0 <= self.seed <= _WORD:
            raise InvalidRequestError("seed", f"is {self.seed}: must be from 0 to 2**64 - 1")

    @property
    def greedy(self) -> bool:
        """Whether only the most probable token can be drawn."""
        return self.temperature == 0.0 or self.top_k == 1


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Filtered:
    """What is left of a distribution after temperature, top-k and top-p.

    Attributes:
        ids: int64 [n], ascending.
        log_probs: float64 [n], natural, normalised over these.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]


def uniform(seed: int, position: int, tokens: NDArray[np.int64], stream: Stream = Stream.TOKEN) -> NDArray[np.float64]:
    """Numbers in (0, 1), one a token, as defined at the top of this module."""
    key = _mix_word(_mix_word(_mix_word(seed + _GAMMA) + position + _GAMMA) + stream + _GAMMA)
    bits = tokens.astype(np.uint64)
    bits += np.uint64(1)
    bits *= np.uint64(_GAMMA)
    bits += np.uint64(key)
    for shift, factor in _SHIFTS_AND_FACTORS:
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    bits >>= np.uint64(11)
    bits |= np.uint64(1)
    numbers: NDArray[np.float64] = bits.astype(np.float64)
    numbers *= 2.0**-53
    return numbers


def round_seed(seed: int, position: int) -> int:
    """Derive the seed of one request from the sequence's, where an engine's draws depend on their order, 64 bits."""
    return _mix_word(_mix_word(seed + _GAMMA) + position + _GAMMA)


def gumbel(seed: int, position: int, tokens: NDArray[np.int64], stream: Stream = Stream.TOKEN) -> NDArray[np.float64]:
    """Gumbel noise, float64, one a token, as defined at the top of this module."""
    noise = np.log(uniform(seed, position, tokens, stream))
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    return noise


def filtered(logits: Logits, sampling: Sampling) -> Filtered:
    """Apply temperature, then top-k, then top-p, in TensorRT-LLM's order.

    Top-k keeps exactly k tokens, the lower ids among equals. Top-p is measured on what top-k left, and keeps the
    smallest set that reaches it: the token that crosses the boundary stays, with all its probability (as in
    TensorRT-LLM's layer for external drafts). Where greedy, the most probable token is all that is left.
    """
    if sampling.greedy:
        return Filtered(np.array([logits.argmax()], dtype=np.int64), np.zeros(1))
    vocab = len(logits)
    if 0 < sampling.top_k < vocab:
        ids = _most_probable(logits, sampling.top_k)
        scaled = _scaled(logits[ids], sampling.temperature)
        total = float(np.exp(scaled).sum())
    else:
        scaled = _scaled(logits, sampling.temperature)
        total = float(np.exp(scaled).sum())
        ids = np.arange(vocab, dtype=np.int64)
        if sampling.top_p < 1.0:
            # Tokens under this bound hold less than 1 - top_p together: none of them is needed to reach top_p.
            ids = np.flatnonzero(scaled >= np.log(0.5 * (1.0 - sampling.top_p) * total / vocab))
            scaled = scaled[ids]
    if sampling.top_p < 1.0:
        order = np.argsort(-scaled, kind="stable")
        reached = np.cumsum(np.exp(scaled[order])) >= sampling.top_p * total
        count = int(reached.argmax()) + 1 if reached[-1] else len(ids)
        keep = np.sort(order[:count])
        ids, scaled = ids[keep], scaled[keep]
        total = float(np.exp(scaled).sum())
    return Filtered(ids, scaled - np.log(total))


def sample(logits: Logits, sampling: Sampling, position: int) -> int:
    """Draw the token at ``position``: the largest of filtered log-probability plus noise, lowest id on ties."""
    if sampling.greedy:
        return int(logits.argmax())
    return perturbed_argmax(filtered(logits, sampling), sampling.seed, position)


def perturbed_argmax(choices: Filtered, seed: int, position: int, stream: Stream = Stream.TOKEN) -> int:
    """Draw from ``choices`` by the noise of a stream, lowest id on ties."""
    # argmax returns the first, hence the lowest id.
    return int(choices.ids[(choices.log_probs + gumbel(seed, position, choices.ids, stream)).argmax()])


@dataclass(frozen=True, slots=True)
class Ranked:
    """The children a draft proposes at one position, best first.

    Attributes:
        ids: int64 [m].
        log_probs: float64 [m], natural, of the distribution at the temperature, before top-k and top-p, so that they
            are finite for every token.
        scores: float64 [m], ``log_probs`` of the filtered distribution plus noise. The margin between the first two
            says how far another model may differ and still draw the first. -inf for a token that the filter removed.
        entropy: nats, of the distribution that ``log_probs`` are of.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    scores: NDArray[np.float64]
    entropy: float


def ranked(logits: Logits, sampling: Sampling, position: int, top: int) -> Ranked:
    """Rank the ``top`` best tokens for ``position``.

    Sampling: tokens that the filter keeps come first, by perturbed score; the first is what :func:`sample` draws.
    Where it keeps fewer than ``top``, the most probable of the others follow, by probability. Greedy: by probability;
    scores are log-probabilities. The lower id is first among equals.
    """
    top = min(top, len(logits))
    scaled = _scaled(logits, sampling.temperature or 1.0)
    weights = np.exp(scaled)
    total = float(weights.sum())
    log_total = float(np.log(total))
    entropy = log_total - float(np.dot(weights, scaled)) / total
    if sampling.greedy:
        ids = _in_order(logits, _most_probable(logits, top))
        return Ranked(ids, scaled[ids] - log_total, scaled[ids] - log_total, entropy)
    kept = filtered(logits, sampling)
    perturbed = kept.log_probs + gumbel(sampling.seed, position, kept.ids)
    order = _in_order(perturbed, _most_probable(perturbed, top))
    ids, scores = kept.ids[order], perturbed[order]
    if len(ids) < top:
        # What the filter keeps is the head of the order of probability.
        rest = _in_order(logits, _most_probable(logits, top))[len(ids) :]
        ids = np.concatenate((ids, rest))
        scores = np.concatenate((scores, np.full(len(rest), -np.inf)))
    return Ranked(ids, scaled[ids] - log_total, scores, entropy)


def _scaled(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Logits at a temperature, float64, moved so that the largest is 0."""
    scaled: NDArray[np.float64] = logits.astype(np.float64)
    scaled -= scaled.max()
    if temperature != 1.0:
        scaled /= temperature
    return scaled


def _most_probable(logits: Logits, count: int) -> NDArray[np.int64]:
    """Ids of the ``count`` largest, ascending; the lower ids among those equal to the smallest of them."""
    if count >= len(logits):
        return np.arange(len(logits), dtype=np.int64)
    candidates = None
    if count * _SPARSE_TOP_K < len(logits):
        # The maxima of as many groups as there are tokens to keep: the least of the k largest bounds what can be kept.
        width = len(logits) // (count * _SPARSE_TOP_K)
        if width > 1:
            groups = logits[: len(logits) // width * width].reshape(-1, width).max(axis=1)
            candidates = np.flatnonzero(logits >= np.partition(groups, len(groups) - count)[len(groups) - count])
    values = logits if candidates is None else logits[candidates]
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - len(above)]
    found = np.sort(np.concatenate((above, equal)))
    return found if candidates is None else candidates[found]


def _in_order(logits: Logits, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """``ids`` (ascending) by falling logit, the lower id first among equals."""
    return ids[np.argsort(-logits[ids], kind="stable")]


def _mix_word(word: int) -> int:
    word &= _WORD
    for shift, factor in _SHIFTS_AND_FACTORS:
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> 31)
