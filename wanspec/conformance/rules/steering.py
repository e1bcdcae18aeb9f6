"""Options that change which token is the most probable: bias, bans, penalties. All checked greedily."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.rule import expect, require, rule
from wanspec.conformance.rules.ending import words
from wanspec.conformance.sources import CHOICE, TENSORS
from wanspec.conformance.subject import Subject

SECTION = f"{TENSORS}; {CHOICE}"
STRONG = 1000.0
"""More than any logit."""
COUNT = 6


def favourite(subject: Subject) -> tuple[int, NDArray[np.float32]]:
    """A token that is neither in the prompt nor in the greedy text, and a bias that makes it the most probable."""
    reference = subject.reference
    token = subject.other(reference.output[0], avoid=[*reference.output, *reference.prompt])
    bias = np.zeros((1, subject.vocab), dtype=np.float32)
    bias[0, token] = STRONG
    return token, bias


@rule(
    "steering.embedding_bias",
    "embedding_bias is added to the logits.",
    section=SECTION,
    why="logit_bias of the OpenAI interface",
    how="a large bias for one token, then a large negative one for the first greedy token",
)
def embedding_bias(subject: Subject) -> None:
    """For and against a token."""
    reference = subject.reference
    token, bias = favourite(subject)
    text = subject.text(reference.prompt, COUNT, embedding_bias=bias)
    expect(f"tokens with a bias of {STRONG:g} for {token}", [token] * COUNT, text)
    against = np.zeros_like(bias)
    against[0, reference.output[0]] = -STRONG
    text = subject.text(reference.prompt, COUNT, embedding_bias=against)
    require("tokens", reference.output[0] not in text, f"none that is {reference.output[0]}", text)


@rule(
    "steering.bad_words",
    "A bad word is never completed; its other tokens are free.",
    section=SECTION,
    why="words that must not be said",
    how="the first greedy token as a word; the second and third as one word",
)
def bad_words(subject: Subject) -> None:
    """One token, two tokens."""
    reference = subject.reference
    first, second, third = reference.output[:3]
    text = subject.text(reference.prompt, COUNT, bad_words_list=words([first]))
    require("tokens with a bad word", first not in text, f"none that is {first}", text)
    expect("number of tokens", COUNT, len(text))
    text = subject.text(reference.prompt, COUNT, bad_words_list=words([second, third]))
    pairs = list(itertools.pairwise(text))
    require("tokens with a bad word of two", (second, third) not in pairs, f"never {(second, third)}", text)
    if (first, second) != (second, third):
        expect("tokens up to the bad word's last", [first, second], text[:2])


@rule(
    "steering.bad_words_in_drafts",
    "A draft that completes a bad word is not accepted.",
    section=SECTION,
    why="drafts must change nothing but speed",
    how="right drafts, one of them banned",
)
def bad_words_in_drafts(subject: Subject) -> None:
    """A banned draft."""
    reference, count = subject.reference, min(subject.longest_drafts(), 4)
    banned = words(reference.output[:1])
    plain = subject.text(reference.prompt, 1, bad_words_list=banned)
    drafts = reference.output[:count]
    expect("tokens", plain, subject.text(reference.prompt, count + 1, drafts, bad_words_list=banned))


@rule(
    "steering.presence_penalty",
    "presence_penalty is subtracted once for a token that was used.",
    section=SECTION,
    why="repetition of loops",
    how="with a bias that repeats one token for ever, a penalty larger than the bias, and a smaller one",
)
def presence_penalty(subject: Subject) -> None:
    """Larger and smaller than the bias."""
    token, bias = favourite(subject)
    prompt = subject.reference.prompt
    text = subject.text(prompt, COUNT, embedding_bias=bias, presence_penalty=2 * STRONG)
    expect(f"times of {token} with presence_penalty {2 * STRONG:g}", 1, text.count(token))
    text = subject.text(prompt, COUNT, embedding_bias=bias, presence_penalty=STRONG / 4)
    expect(f"times of {token} with presence_penalty {STRONG / 4:g}", COUNT, text.count(token))


@rule(
    "steering.frequency_penalty",
    "frequency_penalty is subtracted for each time a token was used.",
    section=SECTION,
    why="repetition of loops",
    how="with a bias that repeats one token for ever, a penalty that takes it back after three uses",
)
def frequency_penalty(subject: Subject) -> None:
    """A penalty that adds up."""
    token, bias = favourite(subject)
    text = subject.text(subject.reference.prompt, COUNT, embedding_bias=bias, frequency_penalty=STRONG / 2.5)
    expect(f"times of {token} with frequency_penalty {STRONG / 2.5:g}", 3, text.count(token))


@rule(
    "steering.repetition_penalty",
    "repetition_penalty divides positive and multiplies negative logits of tokens that were used.",
    section=SECTION,
    why="repetition of loops",
    how="with a bias that repeats one token for ever, a penalty of a million",
)
def repetition_penalty(subject: Subject) -> None:
    """Positive logits become nothing."""
    token, bias = favourite(subject)
    # Other tokens must stay above it: those of positive logits that were not used.
    bias += np.float32(STRONG / 4)
    text = subject.text(subject.reference.prompt, COUNT, embedding_bias=bias, repetition_penalty=1e6)
    expect(f"times of {token}, and where first", (1, token), (text.count(token), text[0]))


RULES = (embedding_bias, bad_words, bad_words_in_drafts, presence_penalty, frequency_penalty, repetition_penalty)
