"""Timelines as compact JSON: an index of all requests, and the details of each, which the page reads when shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

from wanspec.core.rounds import Round, Step, StepKind
from wanspec.core.tree import Origin
from wanspec.report.timeline import PARTS, Span, Timeline
from wanspec.report.words import Words

_KINDS = {StepKind.VERIFY: 0, StepKind.DRAFT: 1, StepKind.WAIT: 2}
_LETTERS = {Origin.TARGET: "t", Origin.REMOTE: "r", Origin.LOCAL: "l"}
_COUNTS = (
    "rounds",
    "drafted_remote",
    "drafted_local",
    "accepted_remote",
    "accepted_local",
    "local_draft_passes",
    "remote_draft_passes",
    "remote_passes_used",
    "bytes_up",
    "bytes_down",
    "desyncs",
)


class Packed(NamedTuple):
    """``listing``: JSON of what the page lists. ``details``: JSON of each request."""

    listing: str
    details: list[str]


def pack(timelines: Sequence[Timeline], words: Words, about: dict[str, Any]) -> Packed:
    """Encode timelines.

    Args:
        timelines: in the order of the report.
        words: for the texts.
        about: of the report as a whole, as the page shows it.
    """
    strings = _Strings()
    details = [_json(_details(each, words, strings)) for each in timelines]
    index = about | {
        "parts": PARTS,
        "counts": _COUNTS,
        "requests": [_summary(each, words) for each in timelines],
        "strings": strings.all,
    }
    return Packed(_json(index), details)


class _Strings:
    """Numbers strings that recur."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def all(self) -> list[str]:
        return list(self._numbers)

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))


def _json(value: Any) -> str:
    """JSON for a ``<script>``: nothing in it can end the element or begin a comment, and no lone surrogate is left."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return text.encode("utf-8", "replace").decode()


def _summary(each: Timeline, words: Words) -> dict[str, Any]:
    counts = [each.summary.get(name, 0) for name in _COUNTS]
    return {
        "name": each.name,
        "source": each.source,
        "policy": each.policy,
        "reason": each.reason,
        "error": each.error,
        "trace": each.trace,
        "at": _ms(each.at_ms),
        "ms": _ms(each.latency_ms),
        "ttft": None if each.ttft_ms is None else _ms(each.ttft_ms),
        "promptTokens": each.prompt_tokens,
        "prompt": words.prompt(each),
        "tokens": each.tokens,
        "origins": _letters(each.origins),
        "pieces": words.pieces(each.prompt[-4:], each.tokens) or ([each.text] if each.text else None),
        "parts": [_ms(part) for part in each.parts],
        "counts": counts,
        "rtt": each.summary.get("rtt_ms"),
        "events": sorted({what for _, what in each.events if what != "worker opens it"}),
    }


def _details(each: Timeline, words: Words, strings: _Strings) -> dict[str, Any]:
    drafted = (token for one in each.rounds for token in (*one.drafted, *one.committed))
    return {
        "rounds": [_round(one, strings) for one in each.rounds],
        "spans": [_span(span, strings) for span in each.spans],
        "vocab": words.each(drafted),
    }


def _round(one: Round, strings: _Strings) -> list[Any]:
    return [
        one.index,
        one.length,
        _ms(one.began_ms),
        _ms(one.ended_ms),
        list(one.drafted),
        _letters(one.origins),
        one.accepted,
        list(one.committed),
        None if one.rtt_ms is None else _ms(one.rtt_ms),
        one.epoch,
        one.bytes_up,
        one.bytes_down,
        [_step(step, strings) for step in one.steps],
        [[_ms(at), strings.number(what)] for at, what in one.events],
    ]


def _step(step: Step, strings: _Strings) -> list[Any]:
    scores = [value for name, score in step.scores for value in (strings.number(name), _finite(score))]
    times = [_ms(value) for value in (step.began_ms, step.ended_ms, step.engine_ms, step.network_ms, step.worker_ms)]
    return [_KINDS[step.kind], *times, strings.number(step.cause), scores]


def _span(span: Span, strings: _Strings) -> list[Any]:
    names = strings.number("|".join(span.values))
    values = [round(value, 2) for value in span.values.values()]
    return [int(span.lane), _ms(span.began_ms), _ms(span.ended_ms), strings.number(span.what), names, *values]


def _letters(origins: Sequence[Origin]) -> str:
    return "".join(_LETTERS[origin] for origin in origins)


def _finite(value: float) -> float | None:
    return round(value, 4) if isfinite(value) else None


def _ms(value: float) -> float:
    return round(float(value), 2)
