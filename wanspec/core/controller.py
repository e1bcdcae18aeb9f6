"""The controller of one region: sequences, links, shared estimators. Events in, actions out; no I/O and no clock."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from uuid import uuid4

from wanspec.core.config import ControllerConfig
from wanspec.core.estimators import Estimators
from wanspec.core.eventlog import LogStart, event_line, start_line
from wanspec.core.events import (
    Action,
    ActionId,
    Cancelled,
    Connected,
    Disconnected,
    Drafted,
    Event,
    Failed,
    Finished,
    Observed,
    Received,
    Request,
    Submitted,
    Tick,
    Verified,
)
from wanspec.core.link import Link, LinkSnapshot, LinkState
from wanspec.core.messages import Drafts, Frame, Lost, Message, PassReport, Refuse, Welcome
from wanspec.core.options import check_options, check_sampling
from wanspec.core.policies import make_policy
from wanspec.core.recorder import Recorder
from wanspec.core.sequence import Sequence
from wanspec.core.wire import decode, split
from wanspec.errors import InvalidRequestError, ProtocolError

_MAX_SEQUENCE = 0xFFFFFFFF
_MAX_TRACEPARENT = 256
_LONGEST_PASS_MS = 10_000.0


class Controller:
    """Drives many sequences. One caller at a time.

    Every call of :meth:`handle` returns actions to be carried out in order. Engine calls, links and sequences may
    change in any order: answers to calls that nobody waits for any more are ignored.
    """

    def __init__(
        self,
        config: ControllerConfig,
        *,
        instance: bytes | None = None,
        estimators: Estimators | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.instance = instance if instance is not None else uuid4().bytes
        self.estimators = estimators if estimators is not None else Estimators()
        self.links = [Link(number, self.instance, config) for number in range(config.links)]
        self.sequences: dict[int, Sequence] = {}
        self._recorders: dict[int, Recorder] = {}
        self._log = log
        self._log_begun = False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at a time ``now`` (ms, never going back).

        Raises:
            InvalidRequestError: a submitted request that cannot be served; nothing has changed then.
        """
        if isinstance(event, Submitted):
            sequence = self._admit(event, now)
            self._begin_recording(sequence, now)
        if self._log is not None:
            self._write_log(event, now)
        frame = _frame(event) if isinstance(event, Received) else None
        for recorder in self._recorders.values():
            recorder.record(event, frame if isinstance(frame, Frame) else None, now)
        actions = self._dispatch(event, frame, now)
        sends = self._flush(now)
        return sends + [self._close_log(action) for action in actions] if self._recorders else sends + actions

    def deadline(self) -> float:
        """When a :class:`Tick` is due, in ms; infinity for never."""
        rtt, due = self._rtt(), inf
        for link in self.links:
            due = min(due, link.deadline(rtt))
        for sequence in self.sequences.values():
            due = min(due, sequence.deadline())
        return due

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be served.

        Raises:
            InvalidRequestError: names the field, what was given and the limit.
        """
        if not request.prompt:
            raise InvalidRequestError("prompt", "is empty; at least 1 token is needed")
        if request.max_tokens < 1:
            raise InvalidRequestError("max_tokens", f"{request.max_tokens} is below the limit of 1")
        total = len(request.prompt) + request.max_tokens
        if total > self.config.context:
            raise InvalidRequestError(
                "max_tokens",
                f"{len(request.prompt)} prompt tokens + {request.max_tokens} make {total}, "
                f"the context of the target is {self.config.context} tokens",
            )
        vocab = self.config.fingerprint.vocab_size
        for index, token in enumerate(request.prompt):
            if not 0 <= token < vocab:
                raise InvalidRequestError("input_ids", f"token {token} at {index} is outside 0 to {vocab - 1}")
        if not 0.0 <= request.deadline_ms < float("inf"):
            raise InvalidRequestError("deadline_ms", f"{request.deadline_ms} is not 0 (none) or a time in ms")
        if len(request.traceparent) > _MAX_TRACEPARENT or not request.traceparent.isascii():
            raise InvalidRequestError("traceparent", f"is not at most {_MAX_TRACEPARENT} ASCII characters")
        check_sampling(request.sampling)
        check_options(request.options, vocab, request.max_tokens)
        make_policy(request.policy, request.parameters)

    # Dispatch

    def _dispatch(self, event: Event, frame: Frame | ProtocolError | None, now: float) -> list[Action]:
        if isinstance(event, (Verified, Drafted, Failed)):
            return self._answered(event, now)
        if isinstance(event, Received):
            assert frame is not None
            return self._received(event, frame, now)
        if isinstance(event, Submitted):
            sequence = self.sequences[event.sequence]
            self._open_remote(sequence, now)
            return sequence.advance(now)
        if isinstance(event, Tick):
            return self._tick(now)
        if isinstance(event, Cancelled):
            cancelled = self.sequences.get(event.sequence)
            return [] if cancelled is None else cancelled.finish("cancelled", now)
        if isinstance(event, Connected):
            return self.links[event.link].connected(now)
        if isinstance(event, Disconnected):
            self.links[event.link].disconnected(event.reason, now)
            return self._link_lost(event.link, now)
        if isinstance(event, Observed):
            self.estimators.observe(event.name, event.value_ms)
        return []

    def _admit(self, event: Submitted, now: float) -> Sequence:
        number, request = event.sequence, event.request
        if number in self.sequences:
            raise InvalidRequestError("sequence", f"{number} is already in use")
        if not 0 <= number <= _MAX_SEQUENCE:
            raise InvalidRequestError("sequence", f"{number} is outside 0 to {_MAX_SEQUENCE}")
        self.check(request)
        policy = make_policy(request.policy, request.parameters)
        sequence = Sequence(number, request, policy, self.config, self.estimators, now)
        self.sequences[number] = sequence
        return sequence

    def _answered(self, event: Verified | Drafted | Failed, now: float) -> list[Action]:
        sequence = self._awaiting(event.action)
        if sequence is None:
            return []
        problem = "" if isinstance(event, Failed) else sequence.objection(event)
        if problem:
            event = Failed(event.action, problem)
        actions: list[Action] = []
        if isinstance(event, Drafted):
            self._observe("draft", event.engine_ms / len(event.tokens), sequence)
            sequence.drafted(event, now)
        elif isinstance(event, Failed):
            actions = sequence.failed(event, now)
        else:
            self._observe("verify", event.engine_ms, sequence)
            actions = sequence.verified(event, now)
            self._take_measured(sequence)
        return actions + sequence.advance(now)

    def _tick(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for link in self.links:
            was_up = link.up
            actions += link.tick(now, self._rtt())
            if was_up and not link.up:
                actions += self._link_lost(link.number, now)
        for sequence in list(self.sequences.values()):
            if sequence.deadline() <= now:
                actions += sequence.tick(now)
                actions += sequence.advance(now)
        return actions

    def _awaiting(self, action: ActionId) -> Sequence | None:
        sequence = self.sequences.get(action[0])
        return sequence if sequence is not None and sequence.awaits(action) else None

    # Links

    def _received(self, event: Received, frame: Frame | ProtocolError, now: float) -> list[Action]:
        link = self.links[event.link]
        if not link.talking:
            link.counters.foreign += 1
            return []
        if isinstance(frame, ProtocolError):
            link.counters.malformed += 1
            return [*link.drop(f"malformed frame: {frame}", now), *self._link_lost(event.link, now)]
        rtt = link.received(frame, len(event.data), now)
        if rtt is not None:
            self._observe("rtt", rtt, None)
        actions: list[Action] = []
        touched: dict[int, Sequence] = {}
        for message in frame.messages:
            actions += self._message(link, message, touched, now)
        for sequence in touched.values():
            actions += sequence.advance(now)
        return actions

    def _message(self, link: Link, message: Message, touched: dict[int, Sequence], now: float) -> list[Action]:
        if isinstance(message, Drafts):
            sequence = self._on_link(link, message.sequence)
            if sequence is not None:
                self._drafts(sequence, message, now)
                touched[sequence.number] = sequence
        elif isinstance(message, PassReport):
            if message.prefills == 0 and 0.0 <= message.pass_ms <= _LONGEST_PASS_MS:
                self._observe("pass", message.pass_ms, None)
        elif isinstance(message, Lost):
            sequence = self._on_link(link, message.sequence)
            if sequence is not None and sequence.remote.lost(message):
                self._reopen(sequence, now)
                touched[sequence.number] = sequence
        elif isinstance(message, Welcome):
            return self._welcome(link, message, now)
        elif isinstance(message, Refuse):
            reason = f"{message.code.name.lower()}: {message.reason}"
            return [*link.refused(reason, now), *self._link_lost(link.number, now)]
        else:
            link.counters.foreign += 1
        return []

    def _welcome(self, link: Link, message: Welcome, now: float) -> list[Action]:
        mine = self.config.fingerprint
        if link.state is not LinkState.HANDSHAKE:
            link.counters.foreign += 1
            return []
        if message.vocab_size != mine.vocab_size:
            return link.refused(f"vocab_size: the draft has {message.vocab_size}, the target {mine.vocab_size}", now)
        if message.tokenizer_hash != mine.tokenizer_hash:
            return link.refused("tokenizer: the draft's is not the target's", now)
        link.welcomed(message, now)
        for sequence in self.sequences.values():
            self._open_remote(sequence, now)
        return []

    def _drafts(self, sequence: Sequence, message: Drafts, now: float) -> None:
        fresh = message.epoch == sequence.remote.epoch
        if sequence.remote.receive(message, self.config.fingerprint.vocab_size, now):
            sequence.overdue = sequence.overdue and not fresh
            if fresh:
                sequence.arrivals.received(message.length, sequence.remote.passed, now)
                self._take_measured(sequence)
        else:
            sequence.tally.desyncs += 1
            sequence.remote.drop()
            self._reopen(sequence, now)

    def _on_link(self, link: Link, number: int) -> Sequence | None:
        sequence = self.sequences.get(number)
        if sequence is None or sequence.finished or sequence.remote.link != link.number:
            link.counters.foreign += 1
            return None
        return sequence

    def _open_remote(self, sequence: Sequence, now: float) -> None:
        if sequence.finished or sequence.remote.open or not sequence.policy.uses_worker:
            return
        for link in self.links:
            if link.up:
                sequence.remote.start(link.number)
                sequence.opened_ms = now
                sequence.arrivals.opened(now)
                sequence.overdue = False
                return

    def _reopen(self, sequence: Sequence, now: float) -> None:
        if sequence.tally.desyncs + sum(sequence.tally.lost.values()) <= self.config.reopen_limit:
            self._open_remote(sequence, now)

    def _link_lost(self, number: int, now: float) -> list[Action]:
        actions: list[Action] = []
        for sequence in list(self.sequences.values()):
            if sequence.remote.open and sequence.remote.link == number:
                sequence.remote.drop()
                self._open_remote(sequence, now)
                actions += sequence.advance(now)
        return actions

    def _flush(self, now: float) -> list[Action]:
        outgoing: dict[int, list[Message]] = {}
        ended: list[int] = []
        for number, sequence in self.sequences.items():
            remote = sequence.remote
            if remote.has_outgoing:
                messages = remote.take()
                if remote.link is not None:
                    outgoing.setdefault(remote.link, []).extend(messages)
            if sequence.finished:
                ended.append(number)
        for number in ended:
            del self.sequences[number]
        if not outgoing:
            return []
        return [
            self.links[number].send(group, now)
            for number, messages in outgoing.items()
            if self.links[number].up
            for group in split(messages)
        ]

    # Measurements and logs

    def log_start(self) -> LogStart:
        """Return the first line of a log that begins now."""
        links = tuple(link.snapshot() for link in self.links)
        return LogStart(self.config, self.instance, self.estimators.state(), links)

    def restore_links(self, links: tuple[LinkSnapshot, ...]) -> None:
        """Take links as a recorded log found them. Only a replay does this."""
        for link, snapshot in zip(self.links, links, strict=True):
            link.restore(snapshot)

    def _observe(self, name: str, value_ms: float, owner: Sequence | None) -> None:
        self.estimators.observe(name, value_ms)
        if owner is None or not self._recorders:
            return
        for number, recorder in self._recorders.items():
            if owner.number != number:
                recorder.observed(name, value_ms)

    def _take_measured(self, sequence: Sequence) -> None:
        if not sequence.arrivals.measured:
            return
        measured, sequence.arrivals.measured = sequence.arrivals.measured, []
        for name, value in measured:
            self._observe(name, value, sequence)

    def _write_log(self, event: Event, now: float) -> None:
        assert self._log is not None
        if not self._log_begun:
            self._log_begun = True
            self._log(start_line(self.log_start(), now))
        self._log(event_line(event, now))

    def _rtt(self) -> float:
        return self.estimators.median("rtt") or 0.0

    def _begin_recording(self, sequence: Sequence, now: float) -> None:
        if sequence.request.record:
            self._recorders[sequence.number] = Recorder(sequence.number, self, now)

    def _close_log(self, action: Action) -> Action:
        if isinstance(action, Finished) and action.sequence in self._recorders:
            lines = self._recorders.pop(action.sequence).lines()
            return Finished(action.sequence, action.reason, action.summary, action.error, lines)
        return action


def _frame(event: Received) -> Frame | ProtocolError:
    try:
        return decode(event.data)
    except ProtocolError as error:
        return error
