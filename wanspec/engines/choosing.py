"""How one request chooses its tokens, where that is more than the largest logit.

The order is TensorRT-LLM's: embedding bias, temperature, penalties, minimum length, bad words, then top-k, top-p and
the draw. Penalties count over the whole sequence, prompt included: so a sequence that is sent again with what was
generated so far, as verification does, is penalised as if it had been generated in one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.sampling import Filtered, Sampling, Stream, filtered, perturbed_argmax, sample, uniform
from wanspec.engines.contract import GenerationRequest

Logits = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tokens chosen at consecutive positions: the accepted drafts, and one more.

    Attributes:
        tokens: at least one.
        accepted: how many of them are drafts.
        log_probs: of each token; see :class:`~wanspec.engines.contract.GenerationResult`.
    """

    tokens: list[int]
    accepted: int
    log_probs: list[float]


def chooser(request: GenerationRequest) -> TokenChooser | None:
    """The chooser of a request; None where the largest logit is all there is to it."""
    plain = (
        request.sampling.greedy
        and not request.bad_words
        and request.embedding_bias is None
        and not (request.end_id is not None and request.min_tokens > 0)
        and (request.repetition_penalty, request.presence_penalty, request.frequency_penalty) == (1.0, 0.0, 0.0)
    )
    return None if plain else TokenChooser(request)


class TokenChooser:
    """Chooses the tokens of one request."""

    __slots__ = ("_bias", "_penalised", "_request", "_sampling", "_temperature")

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._sampling = request.sampling
        temperature = 1.0 if request.temperature is None else request.temperature
        self._temperature = temperature if temperature > 0.0 else 1.0
        self._bias = None if request.embedding_bias is None else request.embedding_bias.astype(np.float64)
        penalties = (request.repetition_penalty, request.presence_penalty, request.frequency_penalty)
        self._penalised = penalties != (1.0, 0.0, 0.0)

    def choose(
        self, logits: Logits, sequence: Sequence[int], produced: int, drafts: NDArray[np.int32], log_probs: bool
    ) -> Chosen:
        """Walk down the drafts while they are accepted, then choose one token more.

        Args:
            logits: [drafts + 1, vocab], after the sequence and after each draft.
            sequence: every token before the first row's choice, prompt included.
            produced: how many of them this request generated.
            drafts: int32 [k]; may be empty.
            log_probs: whether log-probabilities are wanted.
        """
        tokens = list(sequence)
        chosen = Chosen([], 0, [])
        accepted = 0
        for row in range(len(drafts) + 1):
            scores, setting = self._processed(logits[row], tokens, produced + row)
            draft = int(drafts[row]) if row < len(drafts) else None
            token, agreed = self._draw(scores, setting, len(tokens), draft, row)
            chosen.tokens.append(token)
            if log_probs:
                chosen.log_probs.append(_log_prob(scores, setting, token))
            if not agreed:
                break
            accepted += 1
            tokens.append(token)
        return replace(chosen, accepted=accepted)

    def _draw(self, scores: Logits, setting: Sampling, position: int, draft: int | None, row: int) -> tuple[int, bool]:
        """A token, and whether it is the draft.

        Without the drafts' distribution a draft is accepted iff it is what would be drawn anyway, so that drafts change
        nothing. With it, by TensorRT-LLM's rule: iff p(draft) > u * q(draft); else from the positive part of p - q.
        """
        logits = self._request.draft_logits
        if draft is None or logits is None or setting.greedy:
            token = sample(scores, setting, position)
            return token, token == draft
        return _verify(filtered(scores, setting), logits[row], draft, self._threshold(position), setting.seed, position)

    def _threshold(self, position: int) -> float:
        given = self._request.draft_acceptance_threshold
        if given is not None and given > 0.0:
            return given
        return float(uniform(self._sampling.seed, position, np.zeros(1, dtype=np.int64), Stream.ACCEPTANCE)[0])

    def _processed(self, logits: Logits, tokens: Sequence[int], produced: int) -> tuple[Logits, Sampling]:
        """Logits after bias, temperature, penalties and bans, and what is left to do to draw from them."""
        request = self._request
        banned = banned_tokens(request.bad_words, tokens)
        if request.end_id is not None and produced < request.min_tokens and request.end_id < len(logits):
            banned.append(request.end_id)
        if self._bias is None and not self._penalised and not banned:
            return logits, self._sampling
        scores: NDArray[np.float64] = logits.astype(np.float64)
        if self._bias is not None:
            scores += self._bias
        scores /= self._temperature
        if self._penalised:
            self._penalise(scores, tokens)
        scores[banned] = -np.inf
        return scores, self._sampling if self._sampling.greedy else replace(self._sampling, temperature=1.0)

    def _penalise(self, scores: NDArray[np.float64], tokens: Sequence[int]) -> None:
        request = self._request
        seen, counts = np.unique(np.asarray(tokens, dtype=np.int64), return_counts=True)
        values = scores[seen]
        values = np.where(values < 0.0, values * request.repetition_penalty, values / request.repetition_penalty)
        scores[seen] = values - request.presence_penalty - request.frequency_penalty * counts


def _verify(
    target: Filtered, draft_logits: NDArray[np.float32], draft: int, threshold: float, seed: int, position: int
) -> tuple[int, bool]:
    weights = draft_logits.astype(np.float64)
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    probabilities = np.exp(target.log_probs)
    place = int(np.searchsorted(target.ids, draft))
    known = place < len(target.ids) and int(target.ids[place]) == draft
    if known and probabilities[place] > threshold * weights[draft]:
        return draft, True
    residual = np.maximum(probabilities - weights[target.ids], 0.0)
    if not residual.any():
        # Rounding only: the two distributions are equal.
        residual = probabilities
    with np.errstate(divide="ignore"):
        return perturbed_argmax(Filtered(target.ids, np.log(residual)), seed, position, Stream.RESIDUAL), False


def banned_tokens(bad_words: Sequence[tuple[int, ...]], tokens: Sequence[int]) -> list[int]:
    """Tokens that would complete a bad word after ``tokens``."""
    return [word[-1] for word in bad_words if ends_with(tokens, word[:-1])]


def ends_with(tokens: Sequence[int], word: Sequence[int]) -> bool:
    """Whether ``tokens`` ends with ``word``."""
    return not word or (len(tokens) >= len(word) and tuple(tokens[-len(word) :]) == tuple(word))


def _log_prob(scores: Logits, setting: Sampling, token: int) -> float:
    wide = scores.astype(np.float64)
    wide -= wide.max()
    if not setting.greedy and setting.temperature != 1.0:
        wide /= setting.temperature
    return float(wide[token] - np.log(np.exp(wide).sum()))
