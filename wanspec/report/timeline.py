"""What the report shows of one request, wherever it was read from. Times in ms since the request was submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, NamedTuple

from wanspec.core.rounds import Round, StepKind
from wanspec.core.tree import Origin
from wanspec.telemetry.request_spans import without_content

PARTS = ("target GPU", "local draft GPU", "network", "worker", "waiting", "queue", "endpoint", "turn", "unaccounted")
"""Where a request's time goes: engines' own time; of the waits that drafts ended, the time between the regions and the
time with the worker; other waits; of engine calls, what is beyond the engines' own time, which is Triton's queue
and transport; the endpoint's
own work before and after, which event logs do not hold; waiting for admission; rest, such as calls that failed."""

UNKNOWN_TOKEN = -1
"""In the place of tokens that are not known, or not to be shown."""


class Lane(IntEnum):
    """Where something happened that is not on the request's critical path."""

    UP = 0
    DOWN = 1
    WORKER = 2


class Span(NamedTuple):
    """A message under way, or a pass of the worker.

    Attributes:
        lane: where.
        what: its kind, in a word.
        began_ms, ended_ms: half a round trip each way is assumed, since clocks are not synchronised.
        values: its attributes by name.
    """

    lane: Lane
    what: str
    began_ms: float
    ended_ms: float
    values: Mapping[str, float]


@dataclass(slots=True)
class Timeline:
    """One request.

    Attributes:
        name: what it is called in the report.
        source: the file that it was read from.
        policy, reason: how it decoded, and how it ended.
        at_ms: when it was submitted, on the clock of its source.
        latency_ms, ttft_ms, queued_ms: to the end; to the first token; until it was admitted.
        tokens, origins: of the answer.
        prompt: token ids, as far as they are known; ``prompt_tokens`` how many there are.
        rounds, spans: in order of time.
        summary: counters, as the endpoint's summary has them.
        error: what went wrong, empty if nothing.
        text: of the answer as it was served, where no tokenizer can give it token by token.
        trace: hexadecimal id of the trace it was read from.
        own_ms: the endpoint's own work, such as text to tokens.
    """

    name: str
    source: str
    policy: str
    reason: str
    at_ms: float
    latency_ms: float
    ttft_ms: float | None = None
    queued_ms: float = 0.0
    tokens: list[int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    prompt: tuple[int, ...] = ()
    prompt_tokens: int = 0
    rounds: list[Round] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    text: str = ""
    prompt_text: str = ""
    trace: str = ""
    own_ms: float = 0.0

    @property
    def parts(self) -> tuple[float, ...]:
        """ms of each of :data:`PARTS`; together they are the latency."""
        sums = dict.fromkeys(PARTS, 0.0)
        for step in (step for each in self.rounds for step in each.steps):
            if step.kind is StepKind.WAIT:
                sums["network"] += step.network_ms
                sums["worker"] += step.worker_ms
                sums["waiting"] += step.waiting_ms
            elif not step.failed:
                # Not the engine's own figure, which may be beyond this: a clock other than ours measured it.
                engine_ms = step.took_ms - step.queued_ms
                sums["target GPU" if step.kind is StepKind.VERIFY else "local draft GPU"] += engine_ms
                sums["queue"] += step.queued_ms
        sums["endpoint"], sums["turn"] = self.own_ms, self.queued_ms
        sums["unaccounted"] = max(0.0, self.latency_ms - sum(sums.values()))
        return tuple(sums.values())

    @property
    def events(self) -> list[tuple[float, str]]:
        """(ms, what) of all rounds."""
        return [event for each in self.rounds for event in each.events]


def without_text(timeline: Timeline) -> Timeline:
    """A copy of what is known without prompt and tokens: how many there were, and who proposed them, stays."""
    rounds = [_round_without_text(each) for each in timeline.rounds]
    tokens, error = list(_hidden(timeline.tokens)), without_content(timeline.error)
    return replace(timeline, rounds=rounds, tokens=tokens, prompt=(), text="", prompt_text="", error=error)


def _round_without_text(each: Round) -> Round:
    """Causes of failed calls may name tokens."""
    steps = tuple(step._replace(cause=without_content(step.cause)) if step.failed else step for step in each.steps)
    return replace(each, drafted=_hidden(each.drafted), committed=_hidden(each.committed), steps=steps)


def _hidden(tokens: Sequence[int]) -> tuple[int, ...]:
    return (UNKNOWN_TOKEN,) * len(tokens)
