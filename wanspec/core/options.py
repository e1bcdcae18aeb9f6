"""Options of a request that change which tokens the target may choose, or when it has said enough.

Every verification sends the whole prefix again, as one new request. So an option is served only if that gives what one
request for the whole answer would have given. ``docs/sampling.md`` says of each why it does; the rest is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TypeAlias

from wanspec.core.sampling import Sampling
from wanspec.errors import InvalidRequestError

Words: TypeAlias = tuple[tuple[int, ...], ...]
"""Each a sequence of token ids."""

MAX_WORDS = 64
MAX_WORD_TOKENS = 64
MAX_BIASES = 300
TEMPERATURES = (1e-3, 100.0)
"""Above 0, that is; 0 is greedy."""
TOP_PS = (1e-6, 1.0)
MAX_TOP_K = (1 << 31) - 1
PENALTIES = (-100.0, 100.0)
REPETITION_PENALTIES = (0.01, 100.0)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What a request asks of the target's choices beyond :class:`~wanspec.core.sampling.Sampling`.

    Attributes:
        min_tokens: no end token is chosen before so many tokens of the answer. Stop words may end it earlier.
        stop_words: token sequences that end the answer and are part of it; one may begin in the prompt.
        bad_words: token sequences that are never completed; one may begin in the prompt.
        repetition_penalty: above 1 discourages tokens of the sequence so far, prompt included.
        presence_penalty: subtracted from the logit of every token of the sequence so far, prompt included.
        frequency_penalty: the same for each time the token is there.
        logit_bias: (token id, what is added to its logit), each token once.
    """

    min_tokens: int = 0
    stop_words: Words = ()
    bad_words: Words = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def without_end(self, end_ids: frozenset[int], vocab_size: int) -> GenerationOptions:
        """What a pass gets in which no end token may be chosen: each is a bad word of one token."""
        return replace(self, bad_words=(*self.bad_words, *((end,) for end in sorted(end_ids) if 0 <= end < vocab_size)))

    def stops(self, tokens: Sequence[int]) -> bool:
        """Whether a sequence ends with a stop word."""
        return any(tuple(tokens[-len(word) :]) == word for word in self.stop_words)


PLAIN = GenerationOptions()


def check_sampling(sampling: Sampling) -> None:
    """Refuse what an engine of the contract cannot be asked for (its numbers are FP32 and INT32).

    Raises:
        InvalidRequestError: names the field and the limits.
    """
    low, high = TEMPERATURES
    if sampling.temperature != 0.0 and not low <= sampling.temperature <= high:
        raise InvalidRequestError(
            "temperature", f"{sampling.temperature:g} is neither 0 (greedy) nor from {low:g} to {high:g}"
        )
    if sampling.top_k > MAX_TOP_K:
        raise InvalidRequestError("top_k", f"{sampling.top_k} is outside 0 (no limit) to {MAX_TOP_K}")
    _within("top_p", sampling.top_p, TOP_PS)


def check_options(options: GenerationOptions, vocab_size: int, max_tokens: int) -> None:
    """Refuse options that cannot be served.

    Raises:
        InvalidRequestError: names the field, what was given and the limit.
    """
    if not 0 <= options.min_tokens <= max_tokens:
        raise InvalidRequestError("min_tokens", f"{options.min_tokens} is outside 0 to max_tokens, {max_tokens}")
    _within("repetition_penalty", options.repetition_penalty, REPETITION_PENALTIES)
    _within("presence_penalty", options.presence_penalty, PENALTIES)
    _within("frequency_penalty", options.frequency_penalty, PENALTIES)
    _check_words("stop_words", options.stop_words, vocab_size)
    _check_words("bad_words", options.bad_words, vocab_size)
    _check_bias(options.logit_bias, vocab_size)


def _check_words(field: str, words: Words, vocab_size: int) -> None:
    if len(words) > MAX_WORDS:
        raise InvalidRequestError(field, f"{len(words)} words, the limit is {MAX_WORDS}")
    for index, word in enumerate(words):
        if not 1 <= len(word) <= MAX_WORD_TOKENS:
            raise InvalidRequestError(field, f"word {index} has {len(word)} tokens: 1 to {MAX_WORD_TOKENS} are served")
        for token in word:
            _check_token(field, token, vocab_size)


def _check_bias(biases: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    if len(biases) > MAX_BIASES:
        raise InvalidRequestError("logit_bias", f"{len(biases)} tokens, the limit is {MAX_BIASES}")
    if len({token for token, _ in biases}) != len(biases):
        raise InvalidRequestError("logit_bias", "names a token twice; give each token once")
    for token, bias in biases:
        _check_token("logit_bias", token, vocab_size)
        _within("logit_bias", bias, PENALTIES)


def _check_token(field: str, token: int, vocab_size: int) -> None:
    if not 0 <= token < vocab_size:
        raise InvalidRequestError(field, f"token {token} is outside 0 to {vocab_size - 1}")


def _within(field: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not isfinite(value) or not low <= value <= high:
        raise InvalidRequestError(field, f"{value:g} is outside {low:g} to {high:g}")
