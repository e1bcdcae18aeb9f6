"""When bytes that enter a WAN path come out of it: pure bookkeeping, without I/O, clock or timer.

Times are seconds of whatever clock the caller uses.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Iterator
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

    def stall(self, times: int, packets_behind: int, shape: LinkShape) -> float:
        """Seconds that ``times`` losses of one packet cost. A lost retransmission is always found by the timeout."""
        if times == 0:
            return 0.0
        first = shape.rtt_ms if packets_behind >= FAST_RETRANSMIT_PACKETS else shape.rto_ms
        # The timeout doubles each time (RFC 6298).
        later = sum(shape.rto_ms * 2**attempt for attempt in range(times - 1))
        return self.seconds(first + later)


class DelayLine:
    """One direction of one connection: what is under way, each piece with the time it is due, in order."""

    def __init__(self, path: Path, not_before: float = 0.0) -> None:
        """``not_before``: nothing is due earlier (the handshake)."""
        self._path = path
        self._last_due = not_before
        self._line: deque[tuple[float, Item]] = deque()
        self.held_bytes = 0
        self.lost_packets = 0

    @property
    def next_due(self) -> float | None:
        """When the first item is due, None when nothing is under way."""
        return self._line[0][0] if self._line else None

    def push(self, now: float, data: bytes, shape: LinkShape) -> None:
        """Take in ``data``, received at ``now``."""
        self.held_bytes += len(data)
        packets = -(-len(data) // shape.mss)
        sent = 0
        for piece in _pieces(data, shape):
            sent += -(-len(piece) // shape.mss)
            lost = self._path.retransmissions(shape)
            self.lost_packets += lost
            due = self._path.transmit(now, len(piece), shape) + self._path.propagate(shape)
            self._append(due + self._path.stall(lost, packets - sent, shape), piece)

    def push_mark(self, now: float, mark: Mark, shape: LinkShape) -> None:
        """Take in an end of stream or a reset, which comes out after all bytes before it."""
        self._append(now + self._path.propagate(shape), mark)

    def pop(self, now: float) -> Iterator[Item]:
        """Take out what is due, in order."""
        while self._line and self._line[0][0] <= now:
            _, item = self._line.popleft()
            if isinstance(item, bytes):
                self.held_bytes -= len(item)
            yield item

    def postpone(self, until: float) -> None:
        """Nothing that is under way comes out before ``until`` (the path was off, and its sender sends again)."""
        self._line = deque((max(due, until), item) for due, item in self._line)
        self._last_due = max(self._last_due, until)

    def _append(self, due: float, item: Item) -> None:
        self._last_due = max(due, self._last_due)
        self._line.append((self._last_due, item))


def _pieces(data: bytes, shape: LinkShape) -> Iterator[bytes]:
    """``data`` in pieces that come out at different times: packets where packets get lost, else 1 ms of bandwidth."""
    size = len(data)
    if shape.loss > 0:
        size = shape.mss
    elif shape.rate_mbps is not None:
        size = max(shape.mss, int(shape.rate_mbps * 125))
    for start in range(0, len(data), size):
        yield data[start : start + size]
