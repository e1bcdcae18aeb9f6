"""Performance outputs: times, and reuse of the KV cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from wanspec.conformance.answer import Answer
from wanspec.conformance.rule import RuleFailedError, expect, require, rule
from wanspec.conformance.sources import REUSE, TENSORS
from wanspec.conformance.subject import Subject

SECTION = f"{TENSORS}, performance"
TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
BLOCKS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
LONG_PROMPT = 300
"""Tokens: two blocks at least, of any size that is used."""
REUSE_WAIT_S = 2.0


def measured(subject: Subject, prompt: Sequence[int], count: int, want: Sequence[str], **values: Any) -> Answer:
    """A request with performance outputs."""
    return subject.ask(prompt, count, want=want, return_perf_metrics=True, **values)


@rule(
    "performance.times",
    "arrival, first scheduled, first token and last token follow each other, in nanoseconds.",
    section=SECTION,
    why="step times steer the draft length and the wait for the worker",
    how="eight tokens, and one",
)
def times(subject: Subject) -> None:
    """Order of the times."""
    for count in (8, 1):
        answer = measured(subject, subject.reference.prompt, count, TIMES)
        found = [answer.scalar(name) for name in TIMES]
        rising = found[0] > 0 and found == sorted(found)
        require("times", rising and (count == 1 or found[3] > found[2]), f"positive, rising: {', '.join(TIMES)}", found)
        require("duration", found[3] - found[0] < 600e9, "less than ten minutes", found[3] - found[0])


@rule(
    "performance.only_on_request",
    "Performance outputs come only with return_perf_metrics.",
    section=SECTION,
    why="collecting them costs time",
    how="asks for one without the flag",
)
def only_on_request(subject: Subject) -> None:
    """The output without the flag."""
    answer = subject.ask(subject.reference.prompt, 2, want=("acceptance_rate",))
    expect("acceptance_rate without return_perf_metrics", False, "acceptance_rate" in answer.responses[0].tensors)


@rule(
    "performance.blocks",
    "KV block counts are not negative, and new blocks are among all that were allocated.",
    section=SECTION,
    why="capacity planning",
    how="a prompt that was not sent before",
)
def blocks(subject: Subject) -> None:
    """Order of the counts."""
    answer = measured(subject, subject.prompt(LONG_PROMPT), 4, BLOCKS)
    new, reused, total = (answer.scalar(name) for name in BLOCKS)
    require("blocks", min(new, reused, total) >= 0, "none negative", (new, reused, total))
    require("kv_cache_alloc_total_blocks", total >= new, f"at least {new}", total)


@rule(
    "performance.reuse",
    "The second request with the same prompt reuses KV blocks of the first, once that has ended.",
    section=REUSE,
    why="without reuse every round computes the whole prefix again",
    how=f"{LONG_PROMPT} tokens that were not sent before, twice (enable_kv_cache_reuse must be on)",
)
def reuse(subject: Subject) -> None:
    """The same prompt again."""
    prompt = [*subject.prompt(LONG_PROMPT), *subject.reference.prompt]
    name = "kv_cache_reused_blocks"
    first = measured(subject, prompt, 2, (name,)).scalar(name)
    until = time.monotonic() + REUSE_WAIT_S
    again = first
    while again <= first and time.monotonic() < until:
        again = measured(subject, prompt, 2, (name,)).scalar(name)
    if again <= first:
        raise RuleFailedError(f"{name} of the second request", f"more than the first's {first}", again)


@rule(
    "performance.reuse_is_exact",
    "Reuse changes no token: not after the same prompt, not after one that differs at its end.",
    section=REUSE,
    why="a block that was cached for other tokens poisons an answer",
    how="a prompt, the same with another last token, the first again",
)
def reuse_is_exact(subject: Subject) -> None:
    """Tokens with and without reuse."""
    prompt = [*subject.prompt(LONG_PROMPT), *subject.reference.prompt]
    fresh = subject.text(prompt, 6)
    other = [*prompt[:-1], subject.other(prompt[-1])]
    subject.text(other, 6)
    expect("tokens of the same prompt again", fresh, subject.text(prompt, 6))
    expect("tokens of the prompt with an accepted draft appended", fresh[1:], subject.text([*prompt, fresh[0]], 5))


RULES = (times, only_on_request, blocks, reuse, reuse_is_exact)
