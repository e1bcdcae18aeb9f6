"""The worker of one region: drafts for sequences of many controllers, one batched pass after another.

Events in, actions out; no I/O and no clock. PAPER Algorithm 2, with limits on depth, width and memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from wanspec.core.calibration import Calibration
from wanspec.core.config import WorkerConfig
from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.events import (
    Disconnect,
    Disconnected,
    Expand,
    Expanded,
    ExpandFailed,
    LinkOpened,
    Release,
    Steered,
    Tick,
    WorkerAction,
    WorkerEvent,
)
from wanspec.core.handshake import objection, open_problem, welcome
from wanspec.core.messages import (
    Close,
    Commit,
    Frame,
    Hello,
    Lost,
    LostCode,
    Message,
    Open,
    PassReport,
)
from wanspec.core.peer import Peer, microseconds
from wanspec.core.scheduler import best, candidates, reach_probability, worthwhile
from wanspec.core.tree import Node
from wanspec.core.wire import decode, sender_of
from wanspec.core.workersequence import Key, WorkerSequence
from wanspec.errors import ProtocolError


@dataclass(slots=True)
class WorkerCounters:
    """Totals since the worker started."""

    passes: int = 0
    leaves: int = 0
    pass_ms: float = 0.0
    nodes: int = 0
    wasted_leaves: int = 0
    failed_passes: int = 0
    malformed: int = 0
    foreign: int = 0
    duplicates: int = 0
    desyncs: int = 0
    gaps: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Pass:
    """The pass under way: its leaves, and when it was asked for."""

    number: int
    began_ms: float
    items: list[tuple[WorkerSequence, list[Node]]]


class Worker:
    """Drives the drafting of many sequences. One caller at a time."""

    def __init__(self, config: WorkerConfig, *, instance: bytes | None = None) -> None:
        self.config = config
        self.instance = instance if instance is not None else uuid4().bytes
        self.counters = WorkerCounters()
        self.sequences: dict[Key, WorkerSequence] = {}
        self.calibration = Calibration()
        self._sender = int.from_bytes(self.instance[:8], "little")
        self._peers: dict[int, Peer] = {}
        self._actions: list[WorkerAction] = []
        self._pass: _Pass | None = None
        self._passes = 0
        self._turn = 0

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
            self._unlink(event.link)
        elif isinstance(event, ExpandFailed):
            self._expand_failed(event)
        elif isinstance(event, Tick):
            self._tick(now)
        self._schedule(now)
        self._flush(now)
        return self._actions

    def deadline(self) -> float:
        """When a :class:`Tick` is due, in ms; infinity for never."""
        times = [s.deadline(self.config) for s in self.sequences.values()]
        if self._pass is not None:
            times.append(self._pass.began_ms + self.config.pass_ms)
        times += [peer.deadline(self.config.frame_ms) for peer in self._peers.values()]
        return min(times, default=float("inf"))

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
                self._remove(sequence)
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
            self._actions.append(peer.pack(self._sender, now))
            self._actions.append(Disconnect(link, refuse.reason if refuse else "no hello"))
            return False
        previous = self._peers.get(frame.header.sender)
        if previous is not None and previous.link == link:
            self.counters.duplicates += 1
            return False
        if previous is not None:
            self._unlink(previous.link)
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
            self._remove(known)
        lost = open_problem(self.config, message, len(self.sequences))
        if lost is not None:
            peer.reply(Lost(message.sequence, message.epoch, lost, len(message.tokens)))
            return
        sequence = WorkerSequence(key, peer.link, message, now, self.calibration)
        if sequence.hash != message.hash:
            self.counters.desyncs += 1
            peer.reply(Lost(message.sequence, message.epoch, LostCode.DESYNC, len(message.tokens)))
            return
        self.sequences[key] = sequence

    def _commit(self, peer: Peer, message: Commit, now: float) -> None:
        sequence = self.sequences.get((peer.instance, message.sequence))
        if sequence is not None and message.epoch > sequence.epoch:
            self._remove(sequence)  # the controller has opened it again, and that message has not come
            sequence = None
        if sequence is None:
            peer.reply(Lost(message.sequence, message.epoch, LostCode.UNKNOWN, message.from_length))
            return
        if message.epoch != sequence.epoch:
            self.counters.duplicates += 1
            return
        sequence.heard_ms = now
        if any(token >= self.config.fingerprint.vocab_size for token in message.tokens):
            self._lose(peer, sequence, LostCode.DESYNC)
        elif message.from_length > sequence.length:
            self.counters.gaps += 1
            sequence.hold(message, now)
        elif not sequence.commit(message):
            self.counters.desyncs += 1
            self._lose(peer, sequence, LostCode.DESYNC)
        elif sequence.length >= self.config.context:
            self._lose(peer, sequence, LostCode.CONTEXT)

    def _lose(self, peer: Peer, sequence: WorkerSequence, code: LostCode) -> None:
        peer.reply(Lost(sequence.key[1], sequence.epoch, code, sequence.length))
        self._remove(sequence)

    def _remove(self, sequence: WorkerSequence) -> None:
        sequence.closed = True
        del self.sequences[sequence.key]
        self._actions.append(Release(sequence.engine_key))

    def _unlink(self, link: int) -> None:
        for sender, peer in list(self._peers.items()):
            if peer.link == link:
                del self._peers[sender]
        for sequence in [s for s in self.sequences.values() if s.link == link]:
            self._remove(sequence)

    def _tick(self, now: float) -> None:
        if self._pass is not None and now >= self._pass.began_ms + self.config.pass_ms:
            late, self._pass = self._pass, None
            self._abandon(late)
        for sequence in list(self.sequences.values()):
            peer = self._peers.get(int.from_bytes(sequence.key[0][:8], "little"))
            if peer is None:
                self._remove(sequence)
            elif now >= sequence.heard_ms + self.config.idle_ms:
                self._lose(peer, sequence, LostCode.UNKNOWN)
            elif now >= sequence.deadline(self.config):
                self._lose(peer, sequence, LostCode.GAP)

    # Passes

    def _schedule(self, now: float) -> None:
        if self._pass is not None:
            return
        items = self._pick()
        if not items:
            return
        self._passes += 1
        batch = []
        for sequence, leaves in items:
            paths = tuple(sequence.tree.path_to(leaf) for leaf in leaves)
            tokens, length = sequence.tree.tokens, sequence.length
            batch.append(SequenceLeaves(sequence.engine_key, tokens, length, paths, sequence.sampling))
            for leaf in leaves:
                leaf.expanded = True
        self._pass = _Pass(self._passes, now, items)
        top = max(sequence.drafting.branching for sequence, _ in items)
        self._actions.append(Expand(self._passes, tuple(batch), top))

    def _pick(self) -> list[tuple[WorkerSequence, list[Node]]]:
        config, items = self.config, []
        for sequence in self.sequences.values():
            leaves = candidates(sequence, config.max_leaves, config.max_nodes, config.context)
            if leaves:
                items.append((sequence, leaves))
        if not items:
            return []
        if len(items) > 1:
            self._turn = (self._turn + 1) % len(items)
            items = items[self._turn :] + items[: self._turn]
        offers = [[reach_probability(leaf, s.tree.root) for leaf in leaves] for s, leaves in items]
        granted = best(offers, self._capacity(items, offers))
        picked = []
        for (sequence, leaves), count in zip(items, granted, strict=True):
            for leaf in leaves[count:]:
                sequence.frontier.add(leaf)
            if count:
                picked.append((sequence, leaves[:count]))
        return picked

    def _capacity(self, items: list[tuple[WorkerSequence, list[Node]]], offers: list[list[float]]) -> int:
        """Most leaves of the next pass: those worth their cost, but one of each sequence, so that none starves."""
        context = sum(s.length for s, _ in items) / len(items)
        worth = worthwhile([chance for offer in offers for chance in offer], self.config.costs, context)
        return min(self.config.max_leaves, max(worth, len(items)))

    def _expanded(self, event: Expanded, now: float) -> None:
        done = self._take_pass(event.number)
        if done is None:
            return
        result, row, leaves = event.expansion, 0, sum(len(nodes) for _, nodes in done.items)
        if not self._usable(result, leaves):
            self._abandon(done)
            return
        self.counters.passes += 1
        self.counters.leaves += leaves
        self.counters.pass_ms += result.engine_ms
        queue_ms = max(0.0, now - done.began_ms - result.engine_ms)
        prefills = sum(sequence.passes == 0 for sequence, _ in done.items)
        report = PassReport(result.engine_ms, queue_ms, leaves, len(done.items), prefills)
        reported: set[int] = set()
        for sequence, nodes in done.items:
            rows = slice(row, row + len(nodes))
            row += len(nodes)
            if sequence.closed:
                self.counters.wasted_leaves += len(nodes)
                continue
            margins = None if result.margins is None else result.margins[rows]
            drafts, wasted = sequence.grow(
                nodes, result.tokens[rows], result.log_probs[rows], result.entropies[rows], margins, now
            )
            self.counters.wasted_leaves += wasted
            peer = self._peers.get(int.from_bytes(sequence.key[0][:8], "little"))
            if peer is None:
                continue
            if peer.link not in reported:
                reported.add(peer.link)
                peer.reply(report)
            if drafts is not None:
                self.counters.nodes += len(drafts.nodes)
                peer.reply(drafts)

    def _expand_failed(self, event: ExpandFailed) -> None:
        done = self._take_pass(event.number)
        if done is not None:
            self._abandon(done)

    def _take_pass(self, number: int) -> _Pass | None:
        """The pass of this number, if it is the one under way: it is over then."""
        if self._pass is None or self._pass.number != number:
            return None
        done, self._pass = self._pass, None
        return done

    def _usable(self, result: Expansion, leaves: int) -> bool:
        shape = result.tokens.shape
        return (
            len(shape) == 2
            and shape[0] == leaves == len(result.entropies)
            and result.log_probs.shape == shape
            and shape[1] > 0
            and bool(result.tokens.min() >= 0)
            and bool(result.tokens.max() < self.config.fingerprint.vocab_size)
            and bool(result.log_probs.max() <= 1.0)  # false where any is NaN
            and (result.margins is None or (len(result.margins) == leaves and bool((result.margins >= 0.0).all())))
            and 0.0 <= result.engine_ms < float("inf")
        )

    def _abandon(self, done: _Pass) -> None:
        self.counters.failed_passes += 1
        for sequence, _ in done.items:
            peer = self._peers.get(int.from_bytes(sequence.key[0][:8], "little"))
            if not sequence.closed and peer is not None:
                self._lose(peer, sequence, LostCode.ENGINE)

    def _flush(self, now: float) -> None:
        for peer in self._peers.values():
            if peer.is_due(now, self.config.frame_ms, passes_go_on=self._pass is not None):
                self._actions.append(peer.pack(self._sender, now))
