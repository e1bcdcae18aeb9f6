"""One TCP connection through the relay: two sockets, and a delay line in each direction between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

from wanspec.network.delay_line import DelayLine, Mark, Path
from wanspec.network.shape import LinkShape
from wanspec.network.stats import ConnectionStats, DirectionStats
from wanspec.network.timing import PreciseSchedule

# A piece due within this time goes out now: waking up again for it would cost more.
SLACK_S = 20e-6


class End(asyncio.Protocol):
    """One socket. ``outgoing`` is the direction it feeds, ``incoming`` the one that writes to it."""

    outgoing: Direction
    incoming: Direction

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send small writes at once, and start what waited for this socket."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.opened(self)

    def data_received(self, data: bytes) -> None:
        """Bytes enter the path."""
        self.outgoing.push(data)

    def eof_received(self) -> bool:
        """The sender has ended; the other direction goes on."""
        self.outgoing.push_mark(Mark.EOF)
        return True

    def pause_writing(self) -> None:
        """The receiver does not read fast enough."""
        self.incoming.blocked = True

    def resume_writing(self) -> None:
        """The receiver reads again."""
        self.incoming.blocked = False
        self.incoming.pump()

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed: by its peer's reset, or by us."""
        self.closed = True
        self._connection.lost(self)

    def reset(self) -> None:
        """Close with a TCP reset; what is still to be written is dropped."""
        if self.transport is not None and not self.closed:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()


class Direction:
    """From ``source`` to ``sink``."""

    def __init__(self, connection: Connection, source: End, sink: End, line: DelayLine) -> None:
        self._connection = connection
        self._source, self._sink = source, sink
        source.outgoing = sink.incoming = self
        self._line = line
        self._armed: float | None = None
        self._reading = True
        self.blocked = False
        self.ended = False
        self._stats = DirectionStats()

    @property
    def stats(self) -> DirectionStats:
        """What this direction has carried until now."""
        self._stats.held_bytes, self._stats.lost_packets = self._line.held_bytes, self._line.lost_packets
        return self._stats

    def push(self, data: bytes) -> None:
        """Bytes enter; their sender is held back once too many are under way."""
        shape = self._connection.shape()
        self._line.push(self._connection.now(), data, shape)
        if self._line.held_bytes >= shape.buffer_bytes and self._source.transport is not None:
            self._source.transport.pause_reading()
            self._reading = False
        self.pump()

    def push_mark(self, mark: Mark) -> None:
        """An end of stream or a reset enters."""
        self._line.push_mark(self._connection.now(), mark, self._connection.shape())
        self.pump()

    def postpone(self, until: float) -> None:
        """The path is on again: what it holds arrives at ``until`` at the earliest."""
        self._line.postpone(until)
        self.pump()

    def pump(self) -> None:
        """Write what is due, and arrange to be called for the rest."""
        shape = self._connection.shape()
        if shape.state != "on" or self.blocked or self._sink.transport is None:
            return
        for item in self._line.pop(self._connection.now() + SLACK_S):
            self._deliver(item)
            if self.blocked:
                return
        self._read_again(shape)
        due = self._line.next_due
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self._connection.schedule.call_at(due, self._wake)

    def _wake(self) -> None:
        self._armed = None
        self.pump()

    def _deliver(self, item: bytes | Mark) -> None:
        transport = self._sink.transport
        if transport is None or self._sink.closed or transport.is_closing():
            return
        if isinstance(item, bytes):
            transport.write(item)
            self._stats.bytes += len(item)
            self._stats.chunks += 1
        elif item is Mark.EOF:
            transport.write_eof()
            self.ended = True
            self._connection.end_if_both_ended()
        else:
            self._sink.reset()

    def _read_again(self, shape: LinkShape) -> None:
        source = self._source
        if not self._reading and self._line.held_bytes <= shape.buffer_bytes // 2 and not source.closed:
            assert source.transport is not None
            source.transport.resume_reading()
            self._reading = True


class Connection:
    """A client's connection and the one made for it to the target."""

    def __init__(
        self,
        number: int,
        *,
        schedule: PreciseSchedule,
        shape: Callable[[], LinkShape],
        paths: tuple[Path, Path],
        connect: Callable[[Connection], None],
        forget: Callable[[Connection], None],
    ) -> None:
        """``paths`` up and down. ``connect`` is to open ``target``'s socket, ``forget`` is called at the end."""
        self.number = number
        self.schedule = schedule
        self.shape = shape
        self._connect, self._forget = connect, forget
        self.now = asyncio.get_running_loop().time
        self.client, self.target = End(self), End(self)
        # SYN there, SYN-ACK back; then the first byte travels as any other.
        handshake = 3 * paths[0].seconds(shape().delay_ms) if shape().handshake else 0.0
        self.up = Direction(self, self.client, self.target, DelayLine(paths[0], self.now() + handshake))
        self.down = Direction(self, self.target, self.client, DelayLine(paths[1]))

    def opened(self, end: End) -> None:
        """A socket is connected."""
        if end is self.client:
            self._connect(self)
        elif self.client.closed:
            self.target.reset()
        else:
            self.up.pump()

    def lost(self, end: End) -> None:
        """A socket is closed: the other side learns of it as it would on the path."""
        other = self.target if end is self.client else self.client
        if other.transport is None or other.closed:
            self._forget(self)
        elif not (self.up.ended and self.down.ended):
            end.outgoing.push_mark(Mark.RESET)

    def end_if_both_ended(self) -> None:
        """Close both sockets once both directions have delivered their end."""
        if self.up.ended and self.down.ended:
            for end in (self.client, self.target):
                if end.transport is not None:
                    end.transport.close()

    def reset(self) -> None:
        """Reset both sockets now."""
        self.client.reset()
        self.target.reset()

    def stats(self) -> ConnectionStats:
        """What it has carried."""
        closed = self.client.closed and (self.target.closed or self.target.transport is None)
        return ConnectionStats(self.number, not closed, self.up.stats, self.down.stats)
