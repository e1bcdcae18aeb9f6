"""The worker of one region: drafts for sequences of many controllers, one batched pass after another.

Events in, actions out; no I/O and no clock. PAPER Algorithm 2, with limits on depth, width and memory.
"""

from __future__ import annotations

from uuid import uuid4

from wanspec.core.calibration import Calibration
from wanspec.core.config import WorkerConfig
from wanspec.core.events import (
    Disconnect,
    Disconnected,
    Expanded,
    ExpandFailed,
    LinkOpened,
    Release,
    Steered,
    Tick,
    Traced,
    WorkerAction,
    WorkerEvent,
)
from wanspec.core.handshake import objection, open_problem, welcome
from wanspec.core.kept import KeptTokens
from wanspec.core.messages import (
    MAX_LENGTH,
    Close,
    Commit,
    Frame,
    Hello,
    Lost,
    LostCode,
    Message,
    Open,
    PassReport,
    Prefilled,
    make,
    microseconds,
)
from wanspec.core.passes import Pass, Passes, read
from wanspec.core.peer import Peer
from wanspec.core.wire import decode, sender_of
from wanspec.core.workercounters import PassRecord, WorkerCounters
from wanspec.core.workersequence import Key, WorkerSequence
from wanspec.errors import ProtocolError


class Worker:
    """Drives the drafting of many sequences. One caller at a time."""

    def __init__(self, config: WorkerConfig, *, instance: bytes | None = None) -> None:
        self.config = config
        self.instance = instance if instance is not None else uuid4().bytes
        self.counters = WorkerCounters()
        self.sequences: dict[Key, WorkerSequence] = {}
        self.calibration = Calibration()
        self._sender = int.from_bytes(self.instance[:8], "little")
        self._kept = KeptTokens(config)
        self._peers: dict[int, Peer] = {}
        self._actions: list[WorkerAction] = []
        self._passes = Passes(config)

    def handle(self, event: WorkerEvent, now: float) -> list[WorkerAction]:
        """Take one event at a time ``now`` (ms, never going back); return actions to be carried out in order."""
        self._actions = []
        if isinstance(event, Steered):
            self._frame(event.data, None, now)
        elif isinstance(event, Expanded):
            self._expanded(event, now)
        elif isinstance(event, LinkOpened):
            self._frame(event.data, event.link, now)
        elif isinstance(event, Disconnected):
            self._unlink(event.link, now)
        elif isinstance(event, ExpandFailed):
            self._expand_failed(event, now)
        elif isinstance(event, Tick):
            self._tick(now)
        expand = self._passes.begin(self.sequences.values(), now)
        if expand is not None:
            self._actions.append(expand)
        self._flush(now)
        return self._actions

    def deadline(self) -> float:
        """When a :class:`Tick` is due, in ms; infinity for never."""
        config, due = self.config, self._passes.deadline()
        for sequence in self.sequences.values():
            its = sequence.deadline(config)
            due = its if its < due else due
        for peer in self._peers.values():
            its = peer.deadline(config.frame_ms)
            due = its if its < due else due
        return due

    # Frames

    def _frame(self, data: bytes, link: int | None, now: float) -> None:
        if link is None and sender_of(data) not in self._peers:
            self.counters.foreign += 1
            return
        try:
            frame = decode(data)
        except ProtocolError as error:
            self.counters.malformed += 1
            if link is not None:
                self._actions.append(Disconnect(link, str(error)))
            return
        if link is not None and not self._greet(frame, link, now):
            return
        peer = self._peers.get(frame.header.sender)
        if peer is None:
            self.counters.foreign += 1
            return
        if frame.header.sent >= peer.echo:
            peer.echo, peer.echo_received = frame.header.sent, microseconds(now)
        peer.urgent |= frame.header.want_reply
        for message in frame.messages:
            self._message(peer, message, now)

    def _message(self, peer: Peer, message: Message, now: float) -> None:
        if isinstance(message, Commit):
            self._commit(peer, message, now)
        elif isinstance(message, Open):
            self._open(peer, message, now)
        elif isinstance(message, Close):
            sequence = self.sequences.get((peer.instance, message.sequence))
            if sequence is not None and message.epoch >= sequence.epoch:
                self._keep(sequence, "closed", now)
        elif not isinstance(message, Hello):
            self.counters.foreign += 1

    def _greet(self, frame: Frame, link: int, now: float) -> bool:
        hello = next((m for m in frame.messages if isinstance(m, Hello)), None)
        refuse = objection(self.config, frame.header, hello)
        peer = Peer(link, hello.instance if hello else b"", frame.header.sent, microseconds(now))
        if refuse is not None or hello is None:
            self.counters.refused += 1
            if refuse is not None:
                peer.reply(refuse)
            self._actions += peer.pack(self._sender, now)
            self._actions.append(Disconnect(link, refuse.reason if refuse else "no hello"))
            return False
        previous = self._peers.get(frame.header.sender)
        if previous is not None and previous.link == link:
            self.counters.duplicates += 1
            return False
        if previous is not None:
            self._unlink(previous.link, now)
            self._actions.append(Disconnect(previous.link, "the controller has opened another link"))
        self._peers[frame.header.sender] = peer
        peer.reply(welcome(self.config, self.instance))
        return True

    # Sequences

    def _open(self, peer: Peer, message: Open, now: float) -> None:
        key = (peer.instance, message.sequence)
        known = self.sequences.get(key)
        if known is not None:
            if message.epoch <= known.epoch:
                self.counters.duplicates += 1
                return
            self._remove(known, "opened again", now)
        prefix, lost = None, open_problem(self.config, message, len(self.sequences))
        if lost is None and message.prefix_length:
            prefix = self._kept.find(peer.instance, message.prefix_length, message.prefix_hash, now)
            lost = LostCode.PREFIX if prefix is None else None
        if lost is None:
            sequence = WorkerSequence(key, peer.link, message, now, self.calibration, prefix)
            if sequence.hash == message.hash:
                self.sequences[key] = sequence
                return
            self.counters.desyncs += 1
            lost = LostCode.DESYNC
        peer.reply(Lost(message.sequence, message.epoch, lost, min(message.length, MAX_LENGTH)))

    def _commit(self, peer: Peer, message: Commit, now: float) -> None:
        sequence = self.sequences.get((peer.instance, message.sequence))
        if sequence is not None and message.epoch > sequence.epoch:
            self._remove(sequence, "opened again", now)  # by a message that has not come
            sequence = None
        if sequence is None:
            peer.reply(Lost(message.sequence, message.epoch, LostCode.UNKNOWN, message.from_length))
            return
        if message.epoch != sequence.epoch:
            self.counters.duplicates += 1
            return
        sequence.heard_ms = now
        if any(token >= self.config.fingerprint.vocab_size for token in message.tokens):
            self._lose(peer, sequence, LostCode.DESYNC, now)
        elif message.from_length > sequence.length:
            self.counters.gaps += 1
            sequence.hold(message, now)
        elif not sequence.commit(message):
            self.counters.desyncs += 1
            self._lose(peer, sequence, LostCode.DESYNC, now)
        elif sequence.length >= self.config.context:
            self._lose(peer, sequence, LostCode.CONTEXT, now)

    def _lose(self, peer: Peer, sequence: WorkerSequence, code: LostCode, now: float) -> None:
        peer.reply(Lost(sequence.key[1], sequence.epoch, code, sequence.length))
        self._remove(sequence, f"lost: {code.name.lower()}", now)

    def _remove(self, sequence: WorkerSequence, why: str, now: float) -> None:
        sequence.closed = True
        del self.sequences[sequence.key]
        self._actions.append(Release(sequence.engine_key))
        record = sequence.record
        if record is not None:
            record.ended, record.ended_ms, record.prefilled = why, now, sequence.prefilled
            self._actions.append(Traced(record))

    def _keep(self, sequence: WorkerSequence, why: str, now: float) -> None:
        """Remove a sequence that may be of use to a later one."""
        self._remove(sequence, why, now)
        self._kept.keep(sequence.key[0], sequence.tree.tokens, sequence.hashes, now)

    def _unlink(self, link: int, now: float) -> None:
        for sender, peer in list(self._peers.items()):
            if peer.link == link:
                del self._peers[sender]
        for sequence in [s for s in self.sequences.values() if s.link == link]:
            self._keep(sequence, "link down", now)

    def _tick(self, now: float) -> None:
        late = self._passes.take_late(now)
        if late is not None:
            self._abandon(late, now)
        for sequence in list(self.sequences.values()):
            peer = self._peer_of(sequence)
            if peer is None:
                self._remove(sequence, "link down", now)
            elif now >= sequence.heard_ms + self.config.idle_ms:
                self._lose(peer, sequence, LostCode.UNKNOWN, now)
            elif now >= sequence.deadline(self.config):
                self._lose(peer, sequence, LostCode.GAP, now)

    # Passes

    def _expanded(self, event: Expanded, now: float) -> None:
        done = self._passes.take(event.number)
        if done is None:
            return
        children = read(event.expansion, done.leaves, self.config.fingerprint.vocab_size)
        if children is None:
            self._abandon(done, now)
            return
        engine_ms, counters, row = event.expansion.engine_ms, self.counters, 0 if done.chunk is None else 1
        counters.passes += 1
        counters.leaves += done.leaves
        counters.pass_ms += engine_ms
        self._passes.engine_ms = engine_ms
        queue_ms = max(0.0, now - done.began_ms - engine_ms)
        prefills = row + sum([sequence.passes == 0 for sequence, _ in done.items])
        report = make(PassReport, (engine_ms, queue_ms, done.leaves, row + len(done.items), prefills))
        if prefills:
            done.count_computed(event.expansion.computed)
        reported: set[int] = set()
        for sequence, nodes in done.items:
            row += len(nodes)
            if sequence.closed:
                counters.wasted_leaves += len(nodes)
                continue
            drafts, wasted = sequence.grow(nodes, children.part(row - len(nodes), row), now)
            counters.wasted_leaves += wasted
            if sequence.record is not None:
                made = 0 if drafts is None else len(drafts.nodes)
                timed = PassRecord(done.began_ms, now, engine_ms, queue_ms, len(nodes), made, event.number, done.leaves)
                sequence.record.add(timed)
            peer = self._peer_of(sequence)
            if peer is None:
                continue
            if peer.link not in reported:
                reported.add(peer.link)
                peer.reply(report)
            if sequence.passes == 1:
                peer.reply(Prefilled(sequence.key[1], sequence.epoch, sequence.computed, sequence.prefilled))
            if drafts is not None:
                counters.nodes += len(drafts.nodes)
                peer.reply(drafts)

    def _expand_failed(self, event: ExpandFailed, now: float) -> None:
        done = self._passes.take(event.number)
        if done is not None:
            self._abandon(done, now)

    def _abandon(self, done: Pass, now: float) -> None:
        self.counters.failed_passes += 1
        for sequence in done.sequences:
            peer = self._peer_of(sequence)
            if not sequence.closed and peer is not None:
                self._lose(peer, sequence, LostCode.ENGINE, now)

    def _peer_of(self, sequence: WorkerSequence) -> Peer | None:
        return self._peers.get(sequence.sender)

    def _flush(self, now: float) -> None:
        next_pass_ms = self._passes.expected_end() - now
        for peer in list(self._peers.values()):
            if not peer.is_due(now, self.config.frame_ms, next_pass_ms):
                continue
            try:
                self._actions += peer.pack(self._sender, now)
            except ProtocolError as error:  # what it made us answer is its own concern, and no one else's
                self.counters.malformed += 1
                self._unlink(peer.link, now)
                self._actions.append(Disconnect(peer.link, str(error)))
