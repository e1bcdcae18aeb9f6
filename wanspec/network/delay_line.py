"""When bytes that enter a WAN path come out of it: pure bookkeeping, without I/O, clock or timer.

Times are seconds of whatever clock the caller uses.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from wanspec.network.shape import LinkShape

# Packets that must follow a lost one for its sender to notice before the timeout (three duplicate acknowledgements).
FAST_RETRANSMIT_PACKETS = 3


class Mark(enum.Enum):
    """An event that travels with the bytes, in order."""

    EOF = "end of stream"
    RESET = "connection reset"


Item: TypeAlias = bytes | Mark


class Path:
    """One direction of the path, shared by all connections: bandwidth is one queue for all of them.

    Args:
        seed: of jitter and loss.
        time_scale: all durations are multiplied by it (and the rate divided).
    """

    def __init__(self, seed: int | str, time_scale: float = 1.0) -> None:
        self._random = random.Random(seed)
        self._time_scale = time_scale
        self._idle_from = 0.0

    def seconds(self, ms: float) -> float:
        """``ms`` of the emulated world in seconds of the real one."""
        return ms * self._time_scale / 1000

    def transmit(self, now: float, size: int, shape: LinkShape) -> float:
        """When the last of ``size`` bytes, offered at ``now``, has left the sender (token bucket without burst)."""
        if shape.rate_mbps is None:
            return now
        milliseconds = size * 8 / (shape.rate_mbps * 1000)
        self._idle_from = max(now, self._idle_from) + self.seconds(milliseconds)
        return self._idle_from

    def propagate(self, shape: LinkShape) -> float:
        """Seconds of delay with jitter."""
        if shape.jitter_ms == 0:
            return self.seconds(shape.delay_ms)
        return self.seconds(shape.delay_ms + self._random.uniform(-shape.jitter_ms, shape.jitter_ms))

    def retransmissions(self, shape: LinkShape) -> int:
        """How often one packet is lost before it gets through."""
        count = 0
        while shape.loss > 0 and self._random.random() < shape.loss:
            count += 1
        return count

    def timeouts(self, times: int, shape: LinkShape) -> float:
        """Seconds of ``times`` timeouts in a row: each is twice as long as the one before (RFC 6298)."""
        return self.seconds(sum(shape.rto_ms * 2**attempt for attempt in range(times)))


@dataclass(slots=True)
class _Entry:
    due: float
    item: Item


@dataclass(slots=True)
class _Loss:
    """A lost packet whose sender does not know yet: the packets that must still follow, and what comes after that."""

    entry: _Entry
    wanted: int
    further: float


class DelayLine:
    """One direction of one connection: what is under way, each piece with the time it is due, in order.

    A piece is due by itself; what came before holds it up, as within TCP.
    """

    def __init__(self, path: Path, not_before: float = 0.0) -> None:
        """``not_before``: nothing is due earlier (the handshake)."""
        self._path = path
        self._not_before = not_before
        self._line: deque[_Entry] = deque()
        self._losses: list[_Loss] = []
        self.held_bytes = 0
        self.lost_packets = 0

    @property
    def next_due(self) -> float | None:
        """When the first item is due, None when nothing is under way. What enters later may bring it forward."""
        return self._line[0].due if self._line else None

    def push(self, now: float, data: bytes, shape: LinkShape) -> None:
        """Take in ``data``, received at ``now``."""
        self.held_bytes += len(data)
        for piece in _pieces(data, shape):
            lost = self._path.retransmissions(shape)
            due = self._path.transmit(now, len(piece), shape) + self._path.propagate(shape)
            if self._losses:
                self._acknowledge(due, -(-len(piece) // shape.mss), shape)
            entry = self._append(due + self._path.timeouts(lost, shape), piece)
            if lost:
                self.lost_packets += lost
                # A retransmission that is lost is found by the timeout alone.
                self._losses.append(_Loss(entry, FAST_RETRANSMIT_PACKETS, self._path.timeouts(lost - 1, shape)))

    def push_mark(self, now: float, mark: Mark, shape: LinkShape) -> None:
        """Take in an end of stream or a reset, which comes out after all bytes before it."""
        self._append(now + self._path.propagate(shape), mark)

    def pop(self, now: float) -> Iterator[Item]:
        """Take out what is due, in order."""
        while self._line and self._line[0].due <= now:
            item = self._line.popleft().item
            if isinstance(item, bytes):
                self.held_bytes -= len(item)
            yield item

    def postpone(self, until: float) -> None:
        """Nothing that is under way comes out before ``until`` (the path was off, and its sender sends again)."""
        for entry in self._line:
            entry.due = max(entry.due, until)
        self._losses.clear()
        self._not_before = max(self._not_before, until)

    def _append(self, due: float, item: Item) -> _Entry:
        entry = _Entry(max(due, self._not_before), item)
        self._line.append(entry)
        return entry

    def _acknowledge(self, due: float, packets: int, shape: LinkShape) -> None:
        """Packets that are due at ``due`` tell the sender of those lost before: after enough it sends them again."""
        for loss in self._losses:
            loss.wanted -= packets
            if loss.wanted <= 0:
                again = due + self._path.seconds(shape.rtt_ms) + loss.further
                loss.entry.due = max(self._not_before, min(loss.entry.due, again))
        self._losses = [loss for loss in self._losses if loss.wanted > 0]


def _pieces(data: bytes, shape: LinkShape) -> Iterator[bytes]:
    """``data`` in pieces that come out at different times: packets where packets get lost, else 1 ms of bandwidth."""
    size = len(data)
    if shape.loss > 0:
        size = shape.mss
    elif shape.rate_mbps is not None:
        size = max(shape.mss, int(shape.rate_mbps * 125))
    for start in range(0, len(data), size):
        yield data[start : start + size]
