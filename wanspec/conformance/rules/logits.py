"""Logits and log-probabilities: shapes, and that they belong to the tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.rule import RuleSkippedError, expect, require, rule
from wanspec.conformance.sources import TENSORS
from wanspec.conformance.subject import Subject

SECTION = f"{TENSORS}, outputs"
LOG_PROBS = ("output_log_probs", "cum_log_probs")
TOLERANCE = 0.02
"""Of log-probabilities, nats: logits may be of half precision."""


def generation_logits(subject: Subject, prompt: list[int], count: int) -> NDArray[np.float64]:
    """The model's logits along its greedy text, [count, vocab].

    Raises:
        RuleSkippedError: the server does not return them.
    """
    if subject.facts.margin is None:
        raise RuleSkippedError("the server returns no generation_logits")
    answer = subject.ask(prompt, count, want=("generation_logits",), return_generation_logits=True)
    return answer.logits("generation_logits", count)


@rule(
    "logits.generation",
    "generation_logits has a row a token, whose largest is the greedy token.",
    section=SECTION,
    why="drafters and tests read them",
    how="five greedy tokens",
)
def generation(subject: Subject) -> None:
    """Logits of generated tokens."""
    reference = subject.reference
    logits = generation_logits(subject, reference.prompt, 5)
    require("width of generation_logits", logits.shape[1] >= subject.vocab, f"at least {subject.vocab}", logits.shape)
    expect("largest logits", reference.output[:5], logits.argmax(axis=-1).tolist())


@rule(
    "logits.generation_with_drafts",
    "With drafts, generation_logits has a row for each token that comes.",
    section=SECTION + " (by TensorRT-LLM: unverified)",
    why="a client that samples for itself reads the row of the last token",
    how="right drafts",
)
def generation_with_drafts(subject: Subject) -> None:
    """Logits of verified tokens."""
    count, reference = min(subject.longest_drafts(), 3), subject.reference
    if subject.facts.margin is None:
        raise RuleSkippedError("the server returns no generation_logits")
    want = ("generation_logits",)
    drafts = reference.output[:count]
    answer = subject.ask(reference.prompt, count + 1, drafts, want=want, return_generation_logits=True)
    logits = answer.logits("generation_logits", count + 1)
    expect("largest logits", reference.output[: count + 1], logits.argmax(axis=-1).tolist())


@rule(
    "logits.context",
    "context_logits has a row for each token of the prompt; the last chooses the first token.",
    section=SECTION,
    why="scoring of prompts",
    how="the prompt, twice (the second time its KV cache is reused)",
)
def context(subject: Subject) -> None:
    """Logits of the prompt."""
    if subject.facts.max_draft_len:
        raise RuleSkippedError("an engine built for drafts has no context_logits")
    reference = subject.reference
    for _ in range(2):
        answer = subject.ask(reference.prompt, 1, want=("context_logits",), return_context_logits=True)
        logits = answer.logits("context_logits", len(reference.prompt))
        require("width of context_logits", logits.shape[1] >= subject.vocab, f"at least {subject.vocab}", logits.shape)
        expect("largest logit of the last row", reference.output[0], int(logits[-1].argmax()))


@rule(
    "logits.log_probs",
    "output_log_probs are finite and at most 0, one a token; cum_log_probs is their sum.",
    section=SECTION,
    why="ranking of answers",
    how="six tokens; with drafts where they are served",
)
def log_probs(subject: Subject) -> None:
    """Sign, number and sum."""
    reference = subject.reference
    counts = [0, min(subject.facts.max_draft_len, 3)] if subject.facts.max_draft_len else [0]
    for count in counts:
        drafts = reference.output[:count] if count else None
        length = count + 1 if count else 6
        answer = subject.ask(reference.prompt, length, drafts, want=LOG_PROBS, return_log_probs=True)
        values = np.asarray(answer.values("output_log_probs"))
        expect("number of output_log_probs", len(answer.tokens), len(values))
        good = bool(np.isfinite(values).all() and (values <= 1e-6).all())
        require("output_log_probs", good, "finite, at most 0", values.tolist())
        total = float(answer.scalar("cum_log_probs"))
        close = abs(total - float(values.sum())) <= TOLERANCE
        require("cum_log_probs", close, f"the sum {values.sum():.5f}", total)


@rule(
    "logits.log_probs_of_model",
    "Without a filter output_log_probs are those of the softmax of generation_logits.",
    section=SECTION,
    why="a wrong one is a wrong perplexity",
    how="top-p 1, temperature 1, one seed, six tokens",
)
def log_probs_of_model(subject: Subject) -> None:
    """Values against logits."""
    if subject.facts.margin is None:
        raise RuleSkippedError("the server returns no generation_logits")
    want = ("generation_logits", "output_log_probs")
    flags: dict[str, Any] = {"return_log_probs": True, "return_generation_logits": True}
    answer = subject.ask(
        subject.reference.prompt, 6, want=want, runtime_top_p=1.0, temperature=1.0, seed=subject.seeds(1)[0], **flags
    )
    logits = answer.logits("generation_logits", 6)[:, : subject.vocab]
    logits -= logits.max(axis=-1, keepdims=True)
    expected = logits[range(6), answer.tokens] - np.log(np.exp(logits).sum(axis=-1))
    got = np.asarray(answer.values("output_log_probs"))
    close = bool(np.abs(expected - got).max() <= TOLERANCE)
    require("output_log_probs", close, np.round(expected, 3).tolist(), np.round(got, 3).tolist())


RULES = (generation, generation_with_drafts, context, log_probs, log_probs_of_model)
