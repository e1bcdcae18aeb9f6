"""Sampling: seeds, and that top-k, top-p and temperature are respected."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.rule import expect, require, rule
from wanspec.conformance.rules.logits import generation_logits
from wanspec.conformance.sources import CHOICE, TENSORS
from wanspec.conformance.subject import Subject

SECTION = f"{TENSORS}; {CHOICE}"
HOT = 5.0
DRAWS = 48
SLACK = 0.02
"""Of a logit, or a probability, at the boundary of a filter: kernels may round otherwise."""


def softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of one row."""
    scaled = (logits - logits.max()) / temperature
    weights: NDArray[np.float64] = np.exp(scaled)
    weights /= weights.sum()
    return weights


def first_logits(subject: Subject) -> NDArray[np.float64]:
    """Logits of the first token after the first prompt, [vocab]."""
    row: NDArray[np.float64] = generation_logits(subject, subject.reference.prompt, 1)[0, : subject.vocab]
    return row


def draws(subject: Subject, count: int, **values: Any) -> list[int]:
    """First tokens after the first prompt, each with a seed of its own."""
    prompt = subject.reference.prompt
    return [
        token
        for text in subject.together(lambda seed: subject.text(prompt, 1, seed=seed, **values), subject.seeds(count))
        for token in text
    ]


@rule(
    "sampling.same_seed",
    "The same seed gives the same text.",
    section=SECTION,
    why="a retry after a fault must not change an answer",
    how="temperature 5, three seeds, each twice",
)
def same_seed(subject: Subject) -> None:
    """Each seed twice."""
    reference = subject.reference
    for seed in subject.seeds(3):
        options: dict[str, Any] = {"seed": seed, "temperature": HOT, "runtime_top_p": 0.99}
        first = subject.text(reference.prompt, 12, **options)
        expect("tokens of the same seed", first, subject.text(reference.prompt, 12, **options))


@rule(
    "sampling.other_seed",
    "Another seed gives another text.",
    section=SECTION,
    why="n answers would be one",
    how="temperature 5, twelve tokens, four seeds: among them two of which only the upper 32 bits differ",
)
def other_seed(subject: Subject) -> None:
    """All texts differ."""
    reference = subject.reference
    low = subject.seeds(1)[0] % 2**32
    seeds = [low, low + 2**33, *subject.seeds(2)]
    texts = [tuple(subject.text(reference.prompt, 12, seed=seed, temperature=HOT, runtime_top_p=1.0)) for seed in seeds]
    expect("different texts of four seeds", len(seeds), len(set(texts)))


@rule(
    "sampling.top_k_1",
    "top-k 1 is greedy at any temperature.",
    section=SECTION,
    why="greedy verification is asked for by it",
    how="temperature 5, two seeds",
)
def top_k_1(subject: Subject) -> None:
    """Greedy by top-k."""
    reference = subject.reference
    for seed in subject.seeds(2):
        text = subject.text(reference.prompt, 8, seed=seed, temperature=HOT, runtime_top_k=1)
        expect("tokens", reference.output[:8], text)


@rule(
    "sampling.top_k",
    "With top-k only the k most probable tokens are drawn, and more than one of them.",
    section=SECTION,
    why="rare tokens spoil answers",
    how=f"top-k 3, temperature 5, {DRAWS} seeds",
)
def top_k(subject: Subject) -> None:
    """Three of the vocabulary."""
    logits = first_logits(subject)
    least = np.sort(logits)[-3] - SLACK
    got = draws(subject, DRAWS, temperature=HOT, runtime_top_k=3)
    outside = sorted({token for token in got if logits[token] < least})
    expect("tokens drawn that are not among the 3 most probable", [], outside)
    require("different tokens drawn", len(set(got)) > 1, "more than one", len(set(got)))


@rule(
    "sampling.top_p",
    "With top-p only the smallest set of tokens that reaches it is drawn.",
    section=SECTION,
    why="rare tokens spoil answers",
    how=f"top-p 0.4, temperature 5, {DRAWS} seeds",
)
def top_p(subject: Subject) -> None:
    """The nucleus."""
    probabilities = softmax(first_logits(subject), HOT)
    order = np.argsort(-probabilities)
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = {int(token) for token in order[before < 0.4 + SLACK]}
    got = draws(subject, DRAWS, temperature=HOT, runtime_top_p=0.4)
    expect("tokens drawn outside the smallest set that reaches 0.4", [], sorted(set(got) - kept))


@rule(
    "sampling.temperature",
    "At a temperature near 0 only the most probable token is drawn, at a high one many are.",
    section=SECTION,
    why="the first thing that users turn",
    how="temperatures 0.001 and 5, top-p 1",
)
def temperature(subject: Subject) -> None:
    """Cold and hot."""
    reference = subject.reference
    cold = draws(subject, 8, temperature=0.001, runtime_top_p=1.0)
    expect("tokens drawn at temperature 0.001", [reference.output[0]] * 8, cold)
    hot = draws(subject, DRAWS, temperature=HOT, runtime_top_p=1.0)
    require("different tokens drawn at temperature 5", len(set(hot)) > 2, "more than 2", len(set(hot)))


RULES = (same_seed, other_seed, top_k_1, top_k, top_p, temperature)
