"""What must be refused, each with an error of its own and no harm to what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from wanspec.conformance.answer import Answer
from wanspec.conformance.rule import RuleSkippedError, expect, rule
from wanspec.conformance.sources import BACKEND, VALIDATION
from wanspec.conformance.subject import Subject

SECTION = VALIDATION
FAR_TOO_LONG = 1 << 21
"""Tokens; no engine takes as many."""


def _refuse(subject: Subject, what: str, attempt: Callable[[], Answer]) -> None:
    """An attempt is refused, and the next request is served."""
    subject.refused(what, attempt)
    reference = subject.reference
    expect(f"tokens of a request after {what}", reference.output[:2], subject.text(reference.prompt, 2))


@rule(
    "errors.empty_prompt",
    "A prompt without tokens is an error.",
    section=SECTION,
    why="there is nothing to continue",
    how="input_lengths 0",
)
def empty_prompt(subject: Subject) -> None:
    """No prompt."""
    _refuse(subject, "an empty prompt", lambda: subject.ask(subject.reference.prompt, 2, input_lengths=0))


@rule(
    "errors.prompt_too_long",
    "A prompt beyond max_input_len is an error.",
    section=SECTION,
    why="cut silently, it would be answered wrongly",
    how=f"{FAR_TOO_LONG} tokens",
)
def prompt_too_long(subject: Subject) -> None:
    """A prompt of two million tokens."""
    if subject.decoupled and subject.server.protocol == "http":
        raise RuleSkippedError("not sent as JSON")
    prompt = [subject.reference.prompt[0]] * FAR_TOO_LONG
    _refuse(subject, f"a prompt of {FAR_TOO_LONG} tokens", lambda: subject.ask(prompt, 2))


@rule(
    "errors.output_len",
    "request_output_len below 1 is an error.",
    section=SECTION,
    why="there is nothing to generate",
    how="request_output_len -1",
)
def output_len(subject: Subject) -> None:
    """A negative length."""
    _refuse(subject, "request_output_len -1", lambda: subject.ask(subject.reference.prompt, -1))


@rule(
    "errors.bad_token",
    "A token id outside the vocabulary is an error.",
    section=SECTION + " (by TensorRT-LLM: unverified)",
    why="it reads beyond the embedding table",
    how="a negative id, and one far beyond the vocabulary",
)
def bad_token(subject: Subject) -> None:
    """Token ids outside the vocabulary."""
    for token in (-5, 1 << 30):
        prompt = [*subject.reference.prompt, token]
        _refuse(subject, f"token id {token}", lambda prompt=prompt: subject.ask(prompt, 2))  # type: ignore[misc]


@rule(
    "errors.too_many_drafts",
    "More drafts than max_draft_len are an error; so is any draft for an engine built without.",
    section=SECTION,
    why="a controller must learn that its k is too large, and that its target is no verifier",
    how="one draft more than the longest that is served",
)
def too_many_drafts(subject: Subject) -> None:
    """One draft too many."""
    longest, reference = subject.facts.max_draft_len, subject.reference
    if subject.options.role == "draft":
        expect("max_draft_len of a draft engine", 0, longest)
    drafts = (reference.output * (longest // len(reference.output) + 1))[: longest + 1]
    what = f"{longest + 1} drafts"
    _refuse(subject, what, lambda: subject.ask(reference.prompt, longest + 2, drafts))


@rule(
    "errors.drafts_with_beams",
    "Drafts with more than one beam are an error.",
    section=SECTION,
    why="verification is of one sequence",
    how="beam_width 2 with one draft",
)
def drafts_with_beams(subject: Subject) -> None:
    """Drafts and beams."""
    subject.longest_drafts()
    reference = subject.reference
    beams: dict[str, Any] = {"beam_width": 2, "runtime_top_k": 1}
    _refuse(subject, "beam_width 2", lambda: subject.ask(reference.prompt, 2, reference.output[:1], **beams))


@rule(
    "errors.stop_without_id",
    "A stop request without a request id is an error.",
    section=BACKEND,
    why="it would stop nothing, silently",
    how="stop true, no request id",
)
def stop_without_id(subject: Subject) -> None:
    """Stop, but whom."""
    _refuse(subject, "stop without a request id", lambda: subject.ask(subject.reference.prompt, 1, stop=True))


@rule(
    "errors.streaming_when_not_decoupled",
    "streaming is an error unless the model is decoupled.",
    section=BACKEND,
    why="one response cannot carry a stream",
    how="streaming true",
)
def streaming_when_not_decoupled(subject: Subject) -> None:
    """Streaming without decoupling."""
    if subject.decoupled:
        raise RuleSkippedError("the model is decoupled")
    _refuse(subject, "streaming", lambda: subject.ask(subject.reference.prompt, 2, streaming=True))


def _wide(subject: Subject, width: int) -> Any:
    return np.zeros((1, width), dtype=np.float32)


@rule(
    "errors.embedding_bias_width",
    "An embedding_bias that is not as wide as the vocabulary is an error.",
    section=SECTION + " (by TensorRT-LLM: unverified)",
    why="the bias would be added to other tokens",
    how="a bias one token short",
)
def embedding_bias_width(subject: Subject) -> None:
    """A narrow bias."""
    bias = _wide(subject, subject.vocab - 1)
    _refuse(subject, "a narrow embedding_bias", lambda: subject.ask(subject.reference.prompt, 2, embedding_bias=bias))


RULES = (
    empty_prompt,
    prompt_too_long,
    output_len,
    bad_token,
    too_many_drafts,
    drafts_with_beams,
    stop_without_id,
    streaming_when_not_decoupled,
    embedding_bias_width,
)
