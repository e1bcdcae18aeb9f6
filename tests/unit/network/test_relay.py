"""The relay with real sockets on the loopback: timing, order, off and cut, half-close, integrity."""

from __future__ import annotations

import asyncio
import hashlib
import math
import socket
import statistics
import struct
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.timing import in_bounds
from wanspec.errors import ConfigError, ServerError
from wanspec.network.relay import Relay
from wanspec.network.shape import LinkShape

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TIMEOUT_S = 10.0


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        pass
    finally:
        writer.close()


class Bench:
    """A target, a relay in front of it, and connections through it."""

    def __init__(self, shape: LinkShape, handler: Handler = echo, **options: object) -> None:
        self._shape, self._handler, self._options = shape, handler, options
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Bench:
        self.server = await asyncio.start_server(self._handler, "127.0.0.1", 0)
        self.target_port = self.server.sockets[0].getsockname()[1]
        self.relay = Relay("127.0.0.1", self.target_port, self._shape, **self._options)  # type: ignore[arg-type]
        await self.relay.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for writer in self._writers:
            writer.close()
        await self.relay.stop()
        self.server.close()
        await asyncio.sleep(0.01)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.relay.port)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers.append(writer)
        return reader, writer

    async def warm(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection whose handshake is over."""
        reader, writer = await self.connect()
        writer.write(b"!")
        await reader.readexactly(1)
        return reader, writer


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def round_trip_ms(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"x") -> float:
    begin = time.perf_counter()
    writer.write(data)
    await asyncio.wait_for(reader.readexactly(len(data)), TIMEOUT_S)
    return (time.perf_counter() - begin) * 1000


def test_delay_is_exact_to_half_a_millisecond_one_way() -> None:
    async def stay_awake() -> None:
        """An idle processor wakes up late, which is not the relay's doing."""
        while True:
            await asyncio.sleep(0)

    async def two_sleeps_ms(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        """As long as a delayed round trip should take, with what this machine makes late at the moment."""
        begin = time.perf_counter()
        await asyncio.sleep(0.015)
        await round_trip_ms(reader, writer)
        await asyncio.sleep(0.015)
        return (time.perf_counter() - begin) * 1000

    async def test() -> None:
        async with Bench(LinkShape(delay_ms=15)) as delayed, Bench(LinkShape()) as plain:
            awake = asyncio.ensure_future(stay_awake())
            slow, fast = await delayed.warm(), await plain.warm()
            took: list[float] = []
            slept: list[float] = []
            usual: list[float] = []  # of ten each, how much later: a busy machine makes this vary both ways
            best: list[float] = []  # of all so far: that takes one undisturbed round trip only
            while not (in_bounds(usual, -math.inf, 1.0) and in_bounds(best, -math.inf, 1.0)):
                for _ in range(10):
                    took.append(await round_trip_ms(*slow))
                    slept.append(await two_sleeps_ms(*fast))
                usual.append(statistics.median(took[-10:]) - statistics.median(slept[-10:]))
                best.append(min(took) - min(slept))
            awake.cancel()
            assert min(took) >= 30

    run(test)


@pytest.mark.parametrize(("handshake", "least", "below"), [(True, 79, 200), (False, 39, 75)])
def test_first_bytes_wait_for_the_handshake(handshake: bool, least: float, below: float) -> None:
    """SYN, SYN-ACK, there, back; or there and back alone."""

    async def test() -> None:
        async with Bench(LinkShape(delay_ms=20, handshake=handshake)) as bench:
            took: list[float] = []
            while not in_bounds(took, least, below):
                took.append(await round_trip_ms(*await bench.connect()))

    run(test)


def test_messages_in_flight_share_the_delay() -> None:
    async def test() -> None:
        async with Bench(LinkShape(delay_ms=50, rate_mbps=8)) as bench:
            reader, writer = await bench.warm()
            took: list[float] = []
            # Two delays, and 10 ms of serialisation each way that overlap in part: not 100 delays.
            while not in_bounds(took, 109, 400):
                begin = time.perf_counter()
                for _ in range(100):
                    writer.write(b"x" * 100)
                    await asyncio.sleep(0)
                await reader.readexactly(10_000)
                took.append((time.perf_counter() - begin) * 1000)

    run(test)


def test_rate_limits_throughput() -> None:
    async def test() -> None:
        async with Bench(LinkShape(rate_mbps=40)) as bench:
            reader, writer = await bench.warm()
            took: list[float] = []
            while not in_bounds(took, 199, 390):  # 200 ms one way, the way back overlaps
                took.append(await round_trip_ms(reader, writer, b"x" * 1_000_000))

    run(test)


def test_off_holds_bytes_and_on_delivers_them() -> None:
    async def test() -> None:
        async with Bench(LinkShape(delay_ms=5)) as bench:
            reader, writer = await bench.warm()
            await bench.relay.set(state="off")
            writer.write(b"held")
            late = await bench.connect()
            late[1].write(b"new")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.1)
            assert bench.relay.stats().up.held_bytes == 7
            begin = time.perf_counter()
            await bench.relay.set(state="on")
            assert await asyncio.wait_for(reader.readexactly(4), TIMEOUT_S) == b"held"
            assert time.perf_counter() - begin > 0.0095
            assert await asyncio.wait_for(late[0].readexactly(3), TIMEOUT_S) == b"new"

    run(test)


def test_cut_resets_refuses_and_comes_back() -> None:
    async def test() -> None:
        async with Bench(LinkShape(delay_ms=1)) as bench:
            reader, _ = await bench.warm()
            port = bench.relay.port
            await bench.relay.set(state="cut")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), TIMEOUT_S)
            with pytest.raises(ConnectionRefusedError):
                await bench.connect()
            await bench.relay.set(state="on", delay_ms=2)
            await asyncio.sleep(0.01)
            assert bench.relay.port == port
            streams = await bench.warm()
            assert await round_trip_ms(*streams) > 3.9
            assert bench.relay.stats().open == 1

    run(test)


def test_delay_changes_while_running() -> None:
    async def test() -> None:
        async with Bench(LinkShape(delay_ms=40)) as bench:
            streams = await bench.warm()
            took: list[float] = []
            while not in_bounds(took, 0, 60):
                await bench.relay.set(delay_ms=40)
                assert await round_trip_ms(*streams) >= 80
                await bench.relay.set(delay_ms=0)
                took.append(await round_trip_ms(*streams))
            with pytest.raises(ConfigError, match="delay_ms: -1 given"):
                await bench.relay.set(delay_ms=-1)
            assert bench.relay.shape.delay_ms == 0

    run(test)


def test_script_runs_on_the_scaled_clock() -> None:
    async def test() -> None:
        script = [(50, {"delay_ms": 30}), (100, {"delay_ms": 0})]
        first: list[float] = []
        last: list[float] = []
        while not (in_bounds(first, 0.09, 0.18) and in_bounds(last, 0.19, 0.27)):
            async with Bench(LinkShape(), script=script, time_scale=2.0) as bench:
                begin = time.perf_counter()
                seen = []
                while time.perf_counter() - begin < 0.3:
                    seen.append((time.perf_counter() - begin, bench.relay.shape.delay_ms))
                    await asyncio.sleep(0.002)
            during = [at for at, delay in seen if delay == 30]
            first.append(during[0])
            last.append(during[-1])

    run(test)


def test_half_close_lets_the_answer_through() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(data[::-1])
        writer.close()

    async def test() -> None:
        async with Bench(LinkShape(delay_ms=10), answer_at_the_end) as bench:
            reader, writer = await bench.connect()
            writer.write(b"abc")
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b"cba"
            writer.close()
            await asyncio.sleep(0.05)
            stats = bench.relay.stats()
            assert (stats.opened, stats.open) == (1, 0)
            assert (stats.up.bytes, stats.down.bytes) == (3, 3)

    run(test)


def test_reset_of_the_target_reaches_the_client_after_what_it_sent() -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"last words")
        await asyncio.sleep(0.02)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async def test() -> None:
        async with Bench(LinkShape(delay_ms=30), die) as bench:
            reader, writer = await bench.connect()
            writer.write(b"go")
            assert await asyncio.wait_for(reader.readexactly(10), TIMEOUT_S) == b"last words"
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), TIMEOUT_S)

    run(test)


def test_target_that_is_not_there_resets_the_client() -> None:
    async def test() -> None:
        async with Bench(LinkShape()) as bench:
            bench.server.close()
            await bench.server.wait_closed()
            reader, _ = await bench.connect()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), TIMEOUT_S)
            assert bench.relay.stats().open == 0

    run(test)


@pytest.mark.parametrize("shape", [LinkShape(delay_ms=5, jitter_ms=5), LinkShape(1, 1, 400, loss=0.001)])
def test_large_transfer_is_intact_and_counted(shape: LinkShape) -> None:
    async def test() -> None:
        payload = hashlib.shake_256(b"seed").digest(2_000_000)
        async with Bench(shape) as bench:
            reader, writer = await bench.connect()
            writer.write(payload)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 30) == payload
            stats = bench.relay.stats()
            assert stats.up.bytes == stats.down.bytes == len(payload)
            assert stats.connections[0].up == stats.up
            assert stats.up.chunks > 1
            assert (stats.up.lost_packets > 0) == (shape.loss > 0)

    run(test)


def test_sender_is_held_back_when_the_receiver_does_not_read() -> None:
    gate = asyncio.Event()
    received = []

    async def reads_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        received.append(len(await reader.read()))
        writer.close()

    async def test() -> None:
        async with Bench(LinkShape(buffer_bytes=100_000), reads_late) as bench:
            reader, writer = await bench.connect()
            size = 30_000_000
            writer.write(b"x" * size)
            writer.write_eof()
            await asyncio.sleep(0.3)
            assert bench.relay.stats().up.held_bytes < 1_000_000
            assert writer.transport.get_write_buffer_size() > size / 4
            gate.set()
            await asyncio.wait_for(reader.read(), TIMEOUT_S)
            assert received == [size]

    run(test)


def test_port_in_use_is_named() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{port}"):
                await Relay("127.0.0.1", 1, listen_port=port).start()

    run(test)
