"""The law of sampling: drawn tokens against the softmax of the model's own logits, by chi-square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.rule import RuleSkippedError, require, rule
from wanspec.conformance.rules.sampling import first_logits, softmax
from wanspec.conformance.sources import CHOICE, VERIFICATION
from wanspec.conformance.statistics import chi_square, chi_square_tail
from wanspec.conformance.subject import Subject

SECTION = CHOICE
TOP_K = 8
LEAST_P = 1e-5
"""A right sampler fails once in so many runs."""
TEMPERATURES = (0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
MOST = 0.7
"""Most probability of one token: a law of one token says nothing."""
PADDED_AWAY = -1e4


def _law(subject: Subject) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """A temperature, and the ids and probabilities of the tokens that top-k leaves."""
    logits = first_logits(subject)
    if len(logits) <= TOP_K:
        raise RuleSkippedError(f"a vocabulary of {len(logits)} is not larger than top-k {TOP_K}")
    ids = np.argsort(-logits, kind="stable")[:TOP_K]
    for temperature in TEMPERATURES:
        probabilities = softmax(logits[ids], temperature)
        if probabilities[0] <= MOST:
            break
    return temperature, ids, probabilities


def _judge(drawn: Sequence[int], ids: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    counts = Counter(drawn)
    outside = sorted(set(counts) - set(ids.tolist()))
    require("tokens drawn outside top-k", not outside, "none", outside[:8])
    observed = [counts[int(token)] for token in ids]
    statistic, freedom = chi_square(observed, (probabilities * len(drawn)).tolist())
    tail = chi_square_tail(statistic, freedom)
    expected = f"counts near {np.round(probabilities * len(drawn), 1).tolist()}"
    got = f"{observed}: chi-square {statistic:.1f} with {freedom} degrees of freedom, p {tail:.1e}"
    require(f"{len(drawn)} draws with top-k {TOP_K}", tail >= LEAST_P, expected, got)


@rule(
    "law.plain",
    "Tokens are drawn with the probabilities of the filtered softmax.",
    section=SECTION,
    why="the model would say other things than it does",
    how="many requests for one token with a seed each (--samples), top-k 8; chi-square",
)
def plain(subject: Subject) -> None:
    """Without drafts."""
    temperature, ids, probabilities = _law(subject)
    prompt = subject.reference.prompt

    def draw(seed: int) -> int:
        return subject.text(prompt, 1, seed=seed, temperature=temperature, runtime_top_k=TOP_K)[0]

    _judge(subject.together(draw, subject.seeds(subject.options.samples)), ids, probabilities)


@rule(
    "law.one_hot_drafts",
    "With a draft and one-hot draft_logits the first token has the same law as without.",
    section=f"{SECTION}; {VERIFICATION}",
    why="this is how a remote draft stays lossless above temperature 0",
    how="drafts the second most probable token with draft_logits of 0 for it and -1e4 elsewhere; chi-square",
)
def one_hot_drafts(subject: Subject) -> None:
    """With a draft and its distribution."""
    subject.longest_drafts()
    temperature, ids, probabilities = _law(subject)
    draft = int(ids[1])
    draft_logits = np.full((1, 1, subject.vocab), PADDED_AWAY, dtype=np.float32)
    draft_logits[0, 0, draft] = 0.0
    prompt = subject.reference.prompt

    def draw(seed: int) -> int:
        options = {"temperature": temperature, "runtime_top_k": TOP_K, "draft_logits": draft_logits}
        return subject.text(prompt, 2, [draft], seed=seed, **options)[0]

    _judge(subject.together(draw, subject.seeds(subject.options.samples)), ids, probabilities)


RULES = (plain, one_hot_drafts)
