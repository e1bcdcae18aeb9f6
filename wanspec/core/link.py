"""The controller's side of one link: handshake, liveness, reconnection, round-trip time. No I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from math import isfinite

from wanspec.core.config import ControllerConfig
from wanspec.core.events import Action, Connect, Disconnect, Send
from wanspec.core.messages import Frame, Header, Hello, Message, Welcome, microseconds
from wanspec.core.wire import encode


class LinkState(Enum):
    """Where a link stands."""

    DOWN = "down"
    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    UP = "up"


_UP, _HANDSHAKE = LinkState.UP, LinkState.HANDSHAKE


@dataclass(slots=True)
class LinkCounters:
    """Totals since the controller started. Bytes are those of frames, without gRPC, TLS and TCP."""

    bytes_up: int = 0
    bytes_down: int = 0
    frames_up: int = 0
    frames_down: int = 0
    connects: int = 0
    drops: int = 0
    malformed: int = 0
    foreign: int = 0


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """What a replay must know of a link where its log begins. Times in ms; ``due_ms`` is None for at once."""

    state: str
    connected_ms: float
    received_ms: float
    ping_ms: float
    due_ms: float | None
    backoff_ms: float


def stream_instance(instance: bytes, stream: int) -> bytes:
    """The UUID that a controller shows on one of several links to a worker, which takes each for a controller."""
    return bytes((instance[0] ^ stream, *instance[1:]))


class Link:
    """One link. The controller feeds it events and sends what it returns.

    Attributes:
        worker: what the worker said of itself; None while it is not up.
        refusal: why one side refused the other, until that is over.
        rtt_ms: round-trip time that the last frame measured, None if it measured none.
    """

    def __init__(self, number: int, instance: bytes, config: ControllerConfig) -> None:
        self.number = number
        self.state = LinkState.DOWN
        self.worker: Welcome | None = None
        self.refusal = ""
        self.rtt_ms: float | None = None
        self.counters = LinkCounters()
        self._instance = instance
        self._sender = int.from_bytes(instance[:8], "little")
        self._config = config
        self._ping_ms, self._dead_ms = config.link.ping_ms, config.link.dead_ms
        self._frame_number = 0
        self._echo = 0
        self._echo_received = 0
        self._connected = 0.0
        self._last_received = 0.0
        self._last_ping = 0.0
        self._due: float = float("-inf")
        self._backoff = config.link.backoff_ms
        self._pieces: deque[tuple[int, int]] = deque()  # when sent, bytes: of those that have not been answered

    @property
    def talking(self) -> bool:
        """Frames of the worker are expected; any others come from a connection that was given up."""
        return self.state is _UP or self.state is _HANDSHAKE

    @property
    def up(self) -> bool:
        """The worker has accepted the link and is heard from."""
        return self.state is _UP

    @property
    def upload_room(self) -> int:
        """Bytes of prompts that may be sent before the worker has answered earlier ones."""
        return self._config.upload_bytes - sum(size for _, size in self._pieces)

    def deadline(self, rtt_ms: float) -> float:
        """When :meth:`tick` has something to do, in ms."""
        if self.state is not _UP:
            return self._due
        ping, dead = self._last_ping + self._ping_ms, self._dead_at(rtt_ms)
        return ping if ping < dead else dead

    def tick(self, now: float, rtt_ms: float) -> list[Action]:
        """Act on the passing of time. A link found dead is disconnected; the caller sees its state change."""
        if self.state is LinkState.UP:
            if now >= self._dead_at(rtt_ms):
                return self.drop(f"silent for {now - self._last_received:.0f} ms", now)
            if now >= self._last_ping + self._ping_ms:
                return [self.send((), now, want_reply=True)]
        elif now >= self._due:
            if self.state is LinkState.DOWN:
                self.state = LinkState.CONNECTING
                self._due = now + self._config.link.handshake_ms
                return [Connect(self.number)]
            return self.drop(f"no welcome within {self._config.link.handshake_ms:.0f} ms", now)
        return []

    def connected(self, now: float) -> list[Action]:
        """The transport is up: introduce ourselves."""
        if self.state is not LinkState.CONNECTING:
            return []
        self.state = LinkState.HANDSHAKE
        self._connected = now
        self.counters.connects += 1
        self._frame_number = self._echo = self._echo_received = 0
        self._pieces.clear()
        mine = self._config.fingerprint
        hello = Hello(self._instance, mine.vocab_size, mine.tokenizer_hash, mine.draft_id, self._config.auth_token)
        return [self.send((hello,), now, opening=True, want_reply=True)]

    def disconnected(self, reason: str, now: float) -> None:
        """The transport is gone."""
        if self.state is LinkState.DOWN:
            return
        self._fall(now)

    def drop(self, reason: str, now: float, pause_ms: float | None = None) -> list[Action]:
        """Give the connection up from this side; connect again after a pause (the backoff unless stated)."""
        self._fall(now, pause_ms)
        return [Disconnect(self.number, reason)]

    def received(self, frame: Frame, size: int, now: float) -> float | None:
        """Account for a frame; return a round-trip time in ms if it carries one.

        An echo of something not sent on this connection, or a reply older than what it answers, measures nothing.
        """
        self.counters.frames_down += 1
        self.counters.bytes_down += size
        self._last_received = now
        _, _, sent, echo, echo_received, _ = frame.header
        here = microseconds(now)
        self._echo, self._echo_received = sent, here
        while self._pieces and self._pieces[0][0] <= echo:
            self._pieces.popleft()
        if echo < microseconds(self._connected) or not 0 < echo_received <= sent:
            return None
        rtt = (here - echo - (sent - echo_received)) / 1000.0
        return rtt if rtt >= 0.0 else None

    def welcomed(self, message: Welcome, now: float) -> None:
        """The worker accepts."""
        self.state = LinkState.UP
        self.worker = message
        self.refusal = ""
        self._backoff = self._config.link.backoff_ms
        self._last_received = self._last_ping = now

    def refused(self, reason: str, now: float) -> list[Action]:
        """One side refuses the other; try again much later, as an operator may have mended it."""
        self.refusal = reason
        return self.drop(f"refused, {reason}", now, self._config.link.refused_ms)

    def snapshot(self) -> LinkSnapshot:
        """Return what :meth:`restore` needs."""
        due = self._due if isfinite(self._due) else None
        return LinkSnapshot(self.state.value, self._connected, self._last_received, self._last_ping, due, self._backoff)

    def restore(self, snapshot: LinkSnapshot) -> None:
        """Stand where another link stood, as a replay does where its log begins."""
        self.state = LinkState(snapshot.state)
        self._connected = snapshot.connected_ms
        self._last_received, self._last_ping = snapshot.received_ms, snapshot.ping_ms
        self._due = float("-inf") if snapshot.due_ms is None else snapshot.due_ms
        self._backoff = snapshot.backoff_ms

    def send(
        self,
        messages: tuple[Message, ...],
        now: float,
        *,
        opening: bool = False,
        want_reply: bool = False,
        piece: bool = False,
    ) -> Send:
        """Make a frame of messages. A ``piece`` of a prompt is answered at once, which makes room for the next."""
        self._frame_number += 1
        sent = microseconds(now)
        if piece and self._pieces:
            sent = max(sent, self._pieces[-1][0] + 1)  # answers are told apart
        want_reply = want_reply or piece or now >= self._last_ping + self._ping_ms / 2
        if want_reply:
            self._last_ping = now
        header = Header(self._sender, self._frame_number, sent, self._echo, self._echo_received, want_reply)
        data = encode(Frame(header, messages))
        self.counters.frames_up += 1
        self.counters.bytes_up += len(data)
        if piece:
            self._pieces.append((sent, len(data)))
        return Send(self.number, data, opening)

    def _dead_at(self, rtt_ms: float) -> float:
        slow, usual = 4 * rtt_ms + self._ping_ms, self._dead_ms
        return self._last_received + (slow if slow > usual else usual)

    def _fall(self, now: float, pause_ms: float | None = None) -> None:
        if self.state is LinkState.UP:
            self.counters.drops += 1
        self.state = LinkState.DOWN
        self.worker = None
        self._due = now + (self._backoff if pause_ms is None else pause_ms)
        self._backoff = min(2 * self._backoff, self._config.link.backoff_max_ms)
