"""The controller of one region: sequences, links, shared estimators. Events in, actions out; no I/O and no clock."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from wanspec.core.admission import Admission, check_request
from wanspec.core.config import ControllerConfig
from wanspec.core.control import Control
from wanspec.core.estimators import Estimators
from wanspec.core.eventlog import LogStart
from wanspec.core.events import (
    Action,
    Cancelled,
    Connected,
    Controlled,
    Disconnected,
    Drafted,
    Event,
    Failed,
    Observed,
    Received,
    Request,
    Submitted,
    Tick,
    Verified,
)
from wanspec.core.handshake import mismatch
from wanspec.core.kept import SentPrefixes
from wanspec.core.link import Link, LinkSnapshot, LinkState, stream_instance
from wanspec.core.messages import Drafts, Frame, Lost, Message, PassReport, Prefilled, Refuse, Welcome
from wanspec.core.outbox import best_link, flush
from wanspec.core.policies import make_policy
from wanspec.core.recorder import Logs
from wanspec.core.sequence import Sequence
from wanspec.core.totals import Totals
from wanspec.core.wire import read
from wanspec.errors import ProtocolError

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
        control: Control | None = None,
        instance: bytes | None = None,
        estimators: Estimators | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.control = control if control is not None else Control()
        self.instance = instance if instance is not None else uuid4().bytes
        self.estimators = estimators if estimators is not None else Estimators()
        self.links = [
            Link(number, stream_instance(self.instance, number % config.streams), config)
            for number in range(config.links)
        ]
        self.sequences: dict[int, Sequence] = {}
        self.admission = Admission(self)
        self.totals = Totals()
        self.prefixes = SentPrefixes(config)
        self.logs = Logs(self, log)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event at a time ``now`` (ms, never going back).

        Raises:
            InvalidRequestError: a submitted request that cannot be served, or a default policy that cannot be;
                nothing has changed then.
            BusyError: a submitted request for which there is no room now.
        """
        if isinstance(event, Submitted):
            event = self.admission.admit(event, now)
        elif isinstance(event, Controlled):
            make_policy(event.control.policy, event.control.parameters)
        frame = read(event.data) if isinstance(event, Received) else None
        self.logs.record(event, frame if isinstance(frame, Frame) else None, now)
        actions = self._dispatch(event, frame, now)
        sent = self._flush(now)
        while (sequence := self.admission.next(now)) is not None:
            actions += self._begin(sequence, now)
            sent += self._flush(now)
        return sent + self.logs.closed(actions)

    def deadline(self) -> float:
        """When a :class:`Tick` is due, in ms; infinity for never."""
        rtt = self.estimators.median("rtt") or 0.0
        due = self.admission.deadline()
        for link in self.links:
            its = link.deadline(rtt)
            due = its if its < due else due
        for sequence in self.sequences.values():
            its = sequence.deadline()
            due = its if its < due else due
        return due

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be served.

        Raises:
            InvalidRequestError: names the field, what was given and the limit.
        """
        check_request(request, self.config)

    # Dispatch

    def _dispatch(self, event: Event, frame: Frame | ProtocolError | None, now: float) -> list[Action]:
        if isinstance(event, (Verified, Drafted, Failed)):
            return self._answered(event, now)
        if isinstance(event, Received):
            assert frame is not None
            return self._received(event, frame, now)
        if isinstance(event, Submitted):
            return self._begin(self.sequences[event.sequence], now) if event.sequence in self.sequences else []
        if isinstance(event, Tick):
            return self._tick(now)
        if isinstance(event, Cancelled):
            cancelled = self.sequences.get(event.sequence)
            return (
                self.admission.cancelled(event.sequence, now)
                if cancelled is None
                else cancelled.finish("cancelled", now)
            )
        if isinstance(event, Connected):
            return self.links[event.link].connected(now)
        if isinstance(event, Disconnected):
            self.links[event.link].disconnected(event.reason, now)
            return self._link_lost(event.link, now)
        if isinstance(event, Observed):
            self.estimators.observe(event.name, event.value_ms)
        if isinstance(event, Controlled):
            return self._controlled(event.control, now)
        return []

    def _begin(self, sequence: Sequence, now: float) -> list[Action]:
        self._open_remote(sequence, now)
        return sequence.begin(now)

    def _controlled(self, control: Control, now: float) -> list[Action]:
        self.control = control
        for sequence in [*self.sequences.values(), *self.admission.waiting.values()]:
            sequence.adopt(control)
        closing = self._flush(now)  # what closes goes ahead of what opens: a worker may have room for one only
        actions: list[Action] = []
        for sequence in list(self.sequences.values()):
            self._open_remote(sequence, now)
            actions += sequence.advance(now)
        return closing + self._flush(now) + actions

    def _answered(self, event: Verified | Drafted | Failed, now: float) -> list[Action]:
        sequence = self.sequences.get(event.action[0])
        if sequence is None or not sequence.awaits(event.action):
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
            self._observe("call", sequence.called_ms(now), sequence)
            actions = sequence.verified(event, now)
            self._take_measured(sequence)
        return actions + sequence.advance(now)

    def _tick(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for link in self.links:
            was_up = link.up
            actions += link.tick(now, self.estimators.median("rtt") or 0.0)
            if was_up and not link.up:
                actions += self._link_lost(link.number, now)
        for sequence in list(self.sequences.values()):
            if sequence.deadline() <= now:
                actions += sequence.tick(now)
                actions += sequence.advance(now)
        return actions + self.admission.tick(now)

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
        link.rtt_ms = rtt
        for message in frame.messages:
            actions += self._message(link, message, touched, now)
        for sequence in touched.values():
            actions += sequence.advance(now)
        return actions

    def _message(self, link: Link, message: Message, touched: dict[int, Sequence], now: float) -> list[Action]:
        if isinstance(message, (Drafts, Lost, Prefilled)):
            sequence = self._on_link(link, message.sequence)
            if sequence is None:
                return []
            if isinstance(message, Prefilled):
                sequence.remote.prefilled(message)
            elif isinstance(message, Drafts):
                self._drafts(sequence, message, link.rtt_ms, now)
                touched[sequence.number] = sequence
            else:
                again = sequence.remote.lost(message)
                sequence.log.event(f"worker lost it: {message.code.name.lower()}", now)
                if again:
                    self._reopen(sequence, now)
                    touched[sequence.number] = sequence
        elif isinstance(message, PassReport):
            if message.prefills == 0 and 0.0 <= message.pass_ms <= _LONGEST_PASS_MS:
                self._observe("pass", message.pass_ms, None)
        elif isinstance(message, Welcome):
            return self._welcome(link, message, now)
        elif isinstance(message, Refuse):
            reason = f"{message.code.name.lower()}: {message.reason}"
            return [*link.refused(reason, now), *self._link_lost(link.number, now)]
        else:
            link.counters.foreign += 1
        return []

    def _welcome(self, link: Link, message: Welcome, now: float) -> list[Action]:
        if link.state is not LinkState.HANDSHAKE:
            link.counters.foreign += 1
            return []
        problem = mismatch(self.config.fingerprint, message)
        if problem:
            return link.refused(problem, now)
        link.welcomed(message, now)
        self.prefixes.welcomed(link.number, message.instance)
        for sequence in self.sequences.values():
            self._open_remote(sequence, now)
        return []

    def _drafts(self, sequence: Sequence, message: Drafts, rtt_ms: float | None, now: float) -> None:
        fresh = message.epoch == sequence.remote.epoch
        if sequence.remote.receive(message, self.config.fingerprint.vocab_size, now):
            sequence.overdue = sequence.overdue and not fresh
            if fresh:
                sequence.heard(message.length, rtt_ms, now)
                sequence.seen.received(message.length, sequence.remote.passed, now)
                self._take_measured(sequence)
        else:
            sequence.tally.desyncs += 1
            sequence.log.event("desync", now)
            sequence.remote.drop()
            self._reopen(sequence, now)

    def _on_link(self, link: Link, number: int) -> Sequence | None:
        sequence = self.sequences.get(number)
        if sequence is None or sequence.finished or sequence.remote.link != link.number:
            link.counters.foreign += 1
            return None
        return sequence

    def _open_remote(self, sequence: Sequence, now: float) -> None:
        if sequence.finished or sequence.remote.open or not sequence.wants_worker:
            return
        number = best_link(self.links, sequence.remote, self.config.streams)
        if number is not None:
            sequence.remote.start(number)
            sequence.opened_ms = now
            sequence.log.event("worker opens it", now)
            sequence.seen.opened(now)
            sequence.overdue = False

    def _reopen(self, sequence: Sequence, now: float) -> None:
        if sequence.tally.failures <= self.config.reopen_limit:
            self._open_remote(sequence, now)

    def _link_lost(self, number: int, now: float) -> list[Action]:
        actions: list[Action] = []
        for sequence in list(self.sequences.values()):
            if sequence.remote.open and sequence.remote.link == number:
                sequence.remote.cut_off()
                sequence.log.event("link down", now)
                self._open_remote(sequence, now)
                actions += sequence.advance(now)
        return actions

    def _flush(self, now: float) -> list[Action]:
        speaking = [s for s in self.sequences.values() if s.remote.has_outgoing or s.finished]
        actions = flush([sequence.remote for sequence in speaking], self.links, now) if speaking else []
        for sequence in speaking:
            if sequence.finished:
                del self.sequences[sequence.number]
                self.admission.ended(sequence)
                self.prefixes.ended(sequence, now)
        return actions

    # Measurements and logs

    def log_start(self) -> LogStart:
        """Return the first line of a log that begins now."""
        snapshots = tuple(link.snapshot() for link in self.links)
        return LogStart(self.config, self.instance, self.estimators.state(), snapshots, self.control)

    def restore_links(self, links: tuple[LinkSnapshot, ...]) -> None:
        """Take links as a recorded log found them. Only a replay does this."""
        for link, snapshot in zip(self.links, links, strict=True):
            link.restore(snapshot)

    def _observe(self, name: str, value_ms: float, owner: Sequence | None) -> None:
        self.estimators.observe(name, value_ms)
        if owner is not None:
            self.logs.observed(name, value_ms, owner.number)

    def _take_measured(self, sequence: Sequence) -> None:
        observe, logs, number = self.estimators.observe, self.logs, sequence.number
        for name, value in sequence.take_measured():
            observe(name, value)
            logs.observed(name, value, number)
