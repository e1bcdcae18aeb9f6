"""Streaming of a decoupled model."""

from __future__ import annotations

from wanspec.conformance.answer import tokens_of
from wanspec.conformance.rule import RuleSkippedError, expect, require, rule
from wanspec.conformance.sources import TENSORS
from wanspec.conformance.subject import Subject

SECTION = f"{TENSORS}, streaming"


def _decoupled(subject: Subject) -> None:
    if not subject.decoupled:
        raise RuleSkippedError("the model is not decoupled")


@rule(
    "streaming.tokens",
    "Streamed responses hold new tokens only; together they are the text.",
    section=SECTION,
    why="a client that appends would repeat the text",
    how="eight tokens with streaming",
)
def tokens(subject: Subject) -> None:
    """Concatenation."""
    _decoupled(subject)
    reference = subject.reference
    answer = subject.ask(reference.prompt, 8, streaming=True)
    parts = [part for part in map(tokens_of, answer.responses) if part]
    expect("tokens of all responses", reference.output[:8], [token for part in parts for token in part])
    require("responses with tokens", len(parts) > 1, "more than one", len(parts))


@rule(
    "streaming.final",
    "Exactly one response is marked as the last, streamed or not.",
    section=SECTION,
    why="clients wait for it",
    how="counts triton_final_response with and without streaming",
)
def final(subject: Subject) -> None:
    """One final response."""
    _decoupled(subject)
    for streaming in (True, False):
        finals = subject.ask(subject.reference.prompt, 4, streaming=streaming).finals
        if finals is None:
            raise RuleSkippedError("the protocol does not say which response is the last")
        expect(f"final responses with streaming {streaming}", 1, finals)


@rule(
    "streaming.not_asked_for",
    "Without streaming a decoupled model sends the text in one response.",
    section=SECTION,
    why="clients read one response",
    how="eight tokens without streaming",
)
def not_asked_for(subject: Subject) -> None:
    """One response."""
    _decoupled(subject)
    answer = subject.ask(subject.reference.prompt, 8)
    expect("tokens of each response", [subject.reference.output[:8]], [tokens_of(each) for each in answer.responses])


@rule(
    "streaming.log_probs",
    "Streamed output_log_probs belong to the tokens of their response; the last cum_log_probs is the sum of all.",
    section=SECTION,
    why="log-probabilities of streamed answers",
    how="five tokens with streaming and log-probabilities",
)
def log_probs(subject: Subject) -> None:
    """Log-probabilities by response."""
    _decoupled(subject)
    want = ("output_log_probs", "cum_log_probs")
    answer = subject.ask(subject.reference.prompt, 5, want=want, streaming=True, return_log_probs=True)
    parts = [each for each in answer.responses if tokens_of(each)]
    counts = [each.tensors["output_log_probs"].size for each in parts]
    expect("log-probabilities of each response", [len(tokens_of(each)) for each in parts], counts)
    total = sum(float(each.tensors["output_log_probs"].sum()) for each in parts)
    got = float(parts[-1].tensors["cum_log_probs"].item())
    require("the last cum_log_probs", abs(total - got) < 0.02, f"{total:.4f}", got)


RULES = (tokens, final, not_asked_for, log_probs)
