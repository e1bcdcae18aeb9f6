"""Find out what the rules need to know of a model: its vocabulary, its longest drafts, good prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from wanspec.conformance.answer import Answer
from wanspec.conformance.rule import RuleFailedError, RuleSkippedError
from wanspec.conformance.server import CannotAskError, RefusedError
from wanspec.conformance.subject import Facts, Reference, Subject

logger = logging.getLogger(__name__)

CANDIDATES = 16
REFERENCES = 3
LENGTH = 12
MOST_DRAFT_LEN = 256
_SMALL_IDS = 1000
"""Random prompts keep below it where the vocabulary allows: padding of a vocabulary is at its end."""


def probe(subject: Subject) -> Facts:
    """Find out and set ``subject.facts``.

    Prompts are chosen so that greedy text is well defined (the lead of its tokens is large) and does not repeat itself:
    then a server whose floating point differs with the shape of the batch still has only one right answer.

    Raises:
        RefusedError, ServerError: plain generation does not work.
    """
    options = subject.options
    vocab = options.vocab_size or _vocab_size(subject)
    count = options.most_drafts + 4
    found: list[tuple[float, Reference]] = []
    for prompt in options.prompt_ids or _random_prompts(subject, vocab):
        found.append(_reference(subject, list(prompt), count, vocab is not None))
    ordered = sorted(found, key=lambda each: (_fresh(each[1].output), each[0]), reverse=True)[:REFERENCES]
    margin = min(margin for margin, _ in ordered) if vocab is not None else None
    references = [reference for _, reference in ordered]
    longest = _max_draft_len(subject, references[0]) if options.max_draft_len is None else options.max_draft_len
    subject.facts = Facts(vocab, longest, references, margin)
    logger.info("vocabulary %s, max_draft_len %d, least margin %s", vocab, longest, margin)
    return subject.facts


def _vocab_size(subject: Subject) -> int | None:
    """The width of its logits; None where it returns none."""
    try:
        answer = subject.ask([5, 6, 7], 1, want=("generation_logits",), return_generation_logits=True)
        return answer.logits("generation_logits", 1).shape[1]
    except (RefusedError, RuleFailedError, RuleSkippedError, CannotAskError) as error:
        logger.info("no generation_logits: %s", error)
        return None


def _random_prompts(subject: Subject, vocab: int | None) -> list[list[int]]:
    bound = min(vocab or _SMALL_IDS, _SMALL_IDS)
    drawn: list[list[int]] = subject.rng.integers(min(3, bound - 1), bound, (CANDIDATES, LENGTH)).tolist()
    return drawn


def _reference(subject: Subject, prompt: list[int], count: int, logits: bool) -> tuple[float, Reference]:
    """Least margin of the greedy text (0 without logits), and the text."""
    if not logits:
        return 0.0, Reference(prompt, subject.text(prompt, count))
    try:
        answer = subject.ask(prompt, count, want=("generation_logits",), return_generation_logits=True)
        return _margin(answer), Reference(prompt, answer.tokens)
    except (RefusedError, RuleFailedError, CannotAskError):
        return 0.0, Reference(prompt, subject.text(prompt, count))


def _margin(answer: Answer) -> float:
    logits = answer.logits("generation_logits", len(answer.tokens))
    best = np.partition(logits, -2, axis=-1)[:, -2:]
    return float((best[:, 1] - best[:, 0]).min())


def _fresh(output: Sequence[int]) -> int:
    """How many of the first six tokens differ."""
    return len(set(output[:6]))


def _max_draft_len(subject: Subject, reference: Reference) -> int:
    """The most drafts that are not refused: powers of two, then halves of what is left."""

    def served(count: int) -> bool:
        drafts = (reference.output * (count // len(reference.output) + 1))[:count]
        try:
            subject.ask(reference.prompt, count + 1, drafts)
        except RefusedError:
            return False
        return True

    if not served(1):
        return 0
    low, high = 1, 2
    while high <= MOST_DRAFT_LEN and served(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if served(middle) else (low, middle)
    return low
