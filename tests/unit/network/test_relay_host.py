"""The relay in a thread and in a process: one surface, and no leftovers."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.timing import in_bounds
from wanspec.errors import ConfigError, ServerError
from wanspec.network.relay_host import RelayProcess, RelayThread
from wanspec.network.shape import LinkShape

Hosted = type[RelayProcess] | type[RelayThread]


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionError:
            pass


@pytest.fixture(scope="module")
def target() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(params=[RelayThread, RelayProcess])
def kind(request: pytest.FixtureRequest) -> Hosted:
    return request.param


def round_trip_ms(connection: socket.socket) -> float:
    begin = time.perf_counter()
    connection.sendall(b"ping")
    assert connection.recv(4) == b"ping"
    return (time.perf_counter() - begin) * 1000


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def test_delays_changes_and_counts(kind: Hosted, target: int) -> None:
    relay = kind("127.0.0.1", target, LinkShape(delay_ms=10), seed=3)
    with relay, connect(relay.port) as connection:
        round_trip_ms(connection)
        before: list[float] = []
        while not in_bounds(before, 19.5, 55):
            before.append(round_trip_ms(connection))
        relay.set(delay_ms=30)
        after: list[float] = []
        while not in_bounds(after, 59.5, 160):
            after.append(round_trip_ms(connection))
        stats = relay.stats()
        messages = 1 + len(before) + len(after)
        assert (stats.up.bytes, stats.down.bytes, stats.open) == (4 * messages, 4 * messages, 1)
        assert stats.connections[0].up.chunks == messages
    assert relay.stats().up.bytes == 4 * messages
    with pytest.raises(ConnectionRefusedError):
        connect(relay.port)
    relay.stop()


def test_mistakes_are_refused_and_change_nothing(kind: Hosted, target: int) -> None:
    with kind("127.0.0.1", target) as relay, connect(relay.port) as connection:
        with pytest.raises(ConfigError, match=r"^loss: 2 given; it must be between 0 and 0\.5$"):
            relay.set(loss=2)
        with pytest.raises(ConfigError, match="speed: is not a property of a link"):
            relay.set(speed=1)
        round_trip_ms(connection)


def test_port_in_use(kind: Hosted, target: int) -> None:
    relay = kind("127.0.0.1", target, listen_port=target)
    with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{target}"):
        relay.start()


def test_starts_again_on_a_given_port_with_a_script(kind: Hosted, target: int) -> None:
    with kind("127.0.0.1", target) as first:
        port = first.port
        with connect(port) as connection:
            round_trip_ms(connection)
    script = [(0, {"delay_ms": 20})]
    with kind("127.0.0.1", target, listen_port=port, script=script) as relay, connect(relay.port) as connection:
        assert relay.port == port
        round_trip_ms(connection)
        assert round_trip_ms(connection) > 39.5


def test_use_before_start() -> None:
    relay = RelayProcess("127.0.0.1", 1)
    with pytest.raises(ServerError, match="before start"):
        _ = relay.port
    with pytest.raises(ServerError, match="not running"):
        RelayThread("127.0.0.1", 1).set(delay_ms=1)


def test_process_that_was_killed_is_reported(target: int) -> None:
    with RelayProcess("127.0.0.1", target) as relay:
        assert relay._process is not None
        relay._process.kill()
        relay._process.wait(10)
        with pytest.raises(ServerError, match="its process has ended"):
            relay.set(delay_ms=1)


@pytest.mark.parametrize("forks", [False, True])
def test_process_ends_when_its_owner_is_killed(target: int, forks: bool) -> None:
    script = (
        "import os, time; from wanspec.network.relay_host import RelayProcess\n"
        f"relay = RelayProcess('127.0.0.1', {target}); relay.start()\n"
        "print(relay._process.pid, flush=True)\n"
        f"pid = os.fork() if {forks} else 1\n"
        "time.sleep(20 if pid else 4)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        os.kill(owner.pid, signal.SIGKILL)
        deadline = time.monotonic() + 3
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(pid)


def test_command_line(target: int) -> None:
    arguments = [sys.executable, "-m", "wanspec.network.relay", "--to", f"127.0.0.1:{target}", "--delay-ms", "5"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        listening = json.loads(process.stdout.readline())
        with connect(listening["port"]) as connection:
            round_trip_ms(connection)
        process.stdin.write('{"delay_ms": 1}\nnonsense\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline()) == {"event": "set"}
        assert json.loads(process.stdout.readline())["event"] == "error"
        process.send_signal(signal.SIGINT)
        final = json.loads(process.stdout.readline())
        assert final["stats"]["up"]["bytes"] == 4
    assert process.returncode == 0
