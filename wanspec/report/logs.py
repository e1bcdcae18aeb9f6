"""Event logs as timelines: replayed, with messages and worker passes placed on the controller's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from wanspec.core.events import Action, Event, Received, Send
from wanspec.core.messages import Commit, Drafts, Frame, Header, Open, PassReport, Prefilled, microseconds
from wanspec.core.replay import Replayed, replay
from wanspec.core.wire import decode, message_bytes, read
from wanspec.report.timeline import Lane, Span, Timeline

_PERIOD_MS = 10_000.0
"""Of two clocks, for how long the difference holds."""


def read_event_log(lines: Iterable[str], source: str) -> tuple[list[Timeline], int]:
    """Replay a log.

    Args:
        lines: of a whole controller's log, or of one request's.
        source: what to call it.

    Returns:
        Its requests, and how many more had not ended when the log did.

    Raises:
        ProtocolError: the log cannot be read.
    """
    traffic = _Traffic()
    replayed = replay(lines, traffic.watch)
    ended = {number: each for number, each in replayed.items() if each.finished is not None}
    several, placed = len(replayed) > 1, traffic.spans()
    found = []
    for number, each in ended.items():
        spans = [_since(span, each.submitted_ms) for span in placed.get(number, ())]
        found.append(_timeline(each, f"request {number}" if several else source, source, spans))
    return found, len(replayed) - len(ended)


def _timeline(each: Replayed, name: str, source: str, spans: list[Span]) -> Timeline:
    finished = each.finished
    assert finished is not None
    summary = finished.summary
    first = summary["ttft_ms"]
    return Timeline(
        name=name,
        source=source,
        policy=str(summary["policy"]),
        reason=finished.reason,
        at_ms=each.submitted_ms,
        latency_ms=_number(summary["latency_ms"]),
        ttft_ms=None if first is None else _number(first),
        queued_ms=_number(summary["queued_ms"]),
        tokens=each.tokens,
        origins=each.origins,
        prompt=each.prompt,
        prompt_tokens=len(each.prompt),
        rounds=list(finished.rounds),
        spans=sorted(spans, key=lambda span: span.began_ms),
        summary=dict(summary),
        error=finished.error,
    )


class _Clocks:
    """Where the workers' clocks stand, by the frames with the shortest round trips of their time."""

    def __init__(self) -> None:
        self._best: dict[tuple[int, int], tuple[float, float]] = {}

    def heard(self, header: Header, now: float) -> None:
        """Take a frame's clock echo."""
        if not header.echo or not 0 < header.echo_received <= header.sent:
            return
        here = microseconds(now)
        rtt = (here - header.echo - (header.sent - header.echo_received)) / 1000.0
        ahead = (header.echo_received - header.echo + header.sent - here) / 2000.0
        key = header.sender, int(now / _PERIOD_MS)
        if rtt >= 0.0:
            self._best[key] = min(self._best.get(key, (inf, 0.0)), (rtt, ahead))

    def at(self, sender: int, now: float) -> tuple[float, float]:
        """The round trip, and how far the worker's clock is ahead, both in ms; an infinite one if nothing is known."""
        period = int(now / _PERIOD_MS)
        near = [self._best.get((sender, period + step), (inf, 0.0)) for step in (-1, 0, 1)]
        return min(near)


class _Seen(NamedTuple):
    """A span as it was seen from this side: the worker, if it is known yet, and when it sent this, on its clock."""

    sequence: int
    span: Span
    link: int
    worker: int | None
    sent_ms: float


class _Traffic:
    """Collects what crossed the WAN, by sequence; times on the log's clock."""

    def __init__(self) -> None:
        self._clocks = _Clocks()
        self._senders: dict[int, int] = {}
        self._found: list[_Seen] = []
        self._passes: set[tuple[int, int, int]] = set()

    def watch(self, event: Event, now: float, actions: Sequence[Action]) -> None:
        """Take an event and what it led to."""
        if isinstance(event, Received):
            frame = read(event.data)
            if isinstance(frame, Frame):
                self._senders[event.link] = frame.header.sender
                self._clocks.heard(frame.header, now)
                self._received(event.link, frame, now)
        for action in actions:
            if isinstance(action, Send):
                self._sent(action, now)

    def spans(self) -> dict[int, list[Span]]:
        """What there was of each sequence."""
        placed: dict[int, list[Span]] = {}
        for seen in self._found:
            placed.setdefault(seen.sequence, []).append(self._placed(seen))
        return placed

    def _placed(self, seen: _Seen) -> Span:
        """A span whose end on this side is known, put where its other end should be."""
        span = seen.span
        # Where a log begins with what was sent, who it went to is known by the first answer.
        worker = self._senders.get(seen.link, 0) if seen.worker is None else seen.worker
        rtt, ahead = self._clocks.at(worker, span.began_ms)
        if span.lane is Lane.UP:
            return span._replace(ended_ms=span.began_ms + (rtt / 2.0 if rtt < inf else 0.0))
        left = min(seen.sent_ms - ahead, span.ended_ms) if rtt < inf else span.ended_ms
        if span.lane is Lane.DOWN:
            return span._replace(began_ms=left)
        return span._replace(began_ms=left - (span.ended_ms - span.began_ms), ended_ms=left)

    def _received(self, link: int, frame: Frame, now: float) -> None:
        report: PassReport | None = None
        for message in frame.messages:  # a report goes ahead of the drafts of its pass
            if isinstance(message, PassReport):
                report = message
            elif isinstance(message, (Drafts, Prefilled)):
                key = message.sequence, frame.header.sender, frame.header.number
                if report is not None and key not in self._passes:
                    self._passes.add(key)
                    self._add(message.sequence, _pass_span(report, now), link, frame.header)
                if isinstance(message, Drafts):
                    values = {"draft tokens": len(message.nodes), "length": message.length, **_sizes(message)}
                    self._add(message.sequence, Span(Lane.DOWN, "drafts", now, now, values), link, frame.header)

    def _sent(self, action: Send, now: float) -> None:
        frame = decode(action.data)
        for message in frame.messages:
            if isinstance(message, Open):
                values = {"prompt tokens": len(message.tokens), "named tokens": message.prefix_length}
                span = Span(Lane.UP, "open", now, now, {**values, **_sizes(message)})
            elif isinstance(message, Commit):
                length = message.from_length + len(message.tokens)
                values = {"tokens": len(message.tokens), "length": length, **_sizes(message)}
                span = Span(Lane.UP, "commit", now, now, values)
            else:
                continue
            worker = self._senders.get(action.link)
            self._found.append(_Seen(message.sequence, span, action.link, worker, 0.0))

    def _add(self, sequence: int, span: Span, link: int, header: Header) -> None:
        self._found.append(_Seen(sequence, span, link, header.sender, header.sent / 1000.0))


def _pass_span(report: PassReport, now: float) -> Span:
    values = {
        "engine ms": report.pass_ms,
        "queue ms": report.queue_ms,
        "leaves": report.leaves,
        "sequences": report.sequences,
        "prefills": report.prefills,
    }
    return Span(Lane.WORKER, "pass", now - report.pass_ms - report.queue_ms, now, values)


def _sizes(message: Open | Commit | Drafts) -> dict[str, int]:
    return {"bytes": message_bytes(message), "epoch": message.epoch}


def _since(span: Span, submitted: float) -> Span:
    return span._replace(began_ms=span.began_ms - submitted, ended_ms=span.ended_ms - submitted)


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)
