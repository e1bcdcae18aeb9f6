"""What ends a generation without drafts: its length, end_id, stop words; and what must not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.rule import expect, require, rule
from wanspec.conformance.sources import TENSORS, VERIFICATION
from wanspec.conformance.subject import Subject

SECTION = TENSORS


def words(*given: Sequence[int]) -> NDArray[np.int32]:
    """A list of words as [1, 2, n]: all tokens, and where each word ends, padded with -1."""
    tokens = [token for word in given for token in word]
    ends = np.cumsum([len(word) for word in given]).tolist()
    return np.asarray([[tokens, ends + [-1] * (len(tokens) - len(ends))]], dtype=np.int32)


@rule(
    "ending.output_len",
    "Exactly request_output_len tokens come where nothing else ends the text.",
    section=SECTION,
    why="one token too many or too few breaks positions",
    how="lengths 1, 2, 3 and 8",
)
def output_len(subject: Subject) -> None:
    """Lengths."""
    for reference in subject.facts.references:
        for count in (1, 2, 3, 8):
            expect(f"{count} tokens", reference.output[:count], subject.text(reference.prompt, count))


@rule(
    "ending.end_id",
    "end_id ends the output and is not part of it.",
    section=VERIFICATION,
    why="a controller that finds it among the tokens continues after the end",
    how="takes a token of the greedy text as end_id, and the first",
)
def end_id(subject: Subject) -> None:
    """End at a token of the greedy text."""
    reference = subject.reference
    for index in (reference.first(2), 0):
        answer = subject.ask(reference.prompt, len(reference.output), end_id=reference.output[index])
        expect(f"tokens with end_id at place {index}", reference.output[:index], answer.tokens)


@rule(
    "ending.end_id_elsewhere",
    "An end_id that is not generated changes nothing, even where the prompt holds it.",
    section=SECTION,
    why="chat prompts hold the end token of earlier turns",
    how="takes a token of the prompt that the text does not hold",
)
def end_id_elsewhere(subject: Subject) -> None:
    """An end_id of the prompt."""
    reference = subject.reference
    inside = [token for token in reference.prompt if token not in reference.output]
    token = inside[0] if inside else subject.other(reference.output[0], avoid=reference.output)
    expect("tokens", reference.output, subject.text(reference.prompt, len(reference.output), end_id=token))


@rule(
    "ending.stop_words",
    "A stop word ends the output and is part of it; of several, the first that is complete.",
    section=SECTION,
    why="a word of two tokens is cut in half, or the text runs on",
    how="a word of one token, one of two, and two words",
)
def stop_words(subject: Subject) -> None:
    """Stop words from the greedy text."""
    reference = subject.reference
    text = reference.output
    at = reference.first(2)
    absent = [subject.other(text[0], avoid=text)] * 2
    for what, given, end in (
        ("one token", words(text[at : at + 1]), at + 1),
        ("two tokens", words(text[at - 1 : at + 1]), at + 1),
        ("two words", words(absent, text[at - 1 : at + 1]), at + 1),
        ("a word that does not come", words(absent), len(text)),
    ):
        got = subject.text(reference.prompt, len(text), stop_words_list=given)
        expect(f"tokens with a stop word: {what}", text[:end], got)


@rule(
    "ending.min_tokens",
    "Before min_tokens end_id is not drawn, and generation goes on.",
    section=SECTION,
    why="answers would be empty",
    how="the first greedy token as end_id, with min_tokens 3",
)
def min_tokens(subject: Subject) -> None:
    """min_tokens against an end at once."""
    reference = subject.reference
    first = reference.output[0]
    text = subject.text(reference.prompt, 8, end_id=first, min_tokens=3)
    require("tokens with min_tokens 3", len(text) >= 3, "at least 3", text)
    require("tokens", first not in text, f"no end_id ({first})", text)


RULES = (output_len, end_id, end_id_elsewhere, stop_words, min_tokens)
