"""``wanspec relay``, as a process between a client and a server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from wanspec.cli.group import cli
from wanspec.network.ports import reserve_ports

RTT_MS = 40.0
COMMAND = [sys.executable, "-c", "from wanspec.cli import main; main()", "relay"]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def test_it_delays_what_it_passes_on_and_counts_it(server: socket.socket) -> None:
    to = server.getsockname()[1]
    with reserve_ports(1) as (port,):
        # 127.0.0.2: another address than the usual one.
        words = [f"--listen=127.0.0.2:{port}", f"--to=127.0.0.1:{to}", f"--rtt-ms={RTT_MS}", "--json"]
        with subprocess.Popen([*COMMAND, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdin is not None

            def said() -> dict[str, Any]:
                return json.loads(process.stdout.readline())  # type: ignore[union-attr,no-any-return]

            assert said() == {"event": "listening", "port": port}
            with socket.create_connection(("127.0.0.2", port), 20) as client:
                begun = time.monotonic()
                client.sendall(b"there")
                accepted, _ = server.accept()
                assert accepted.recv(16) == b"there"
                # One way, and the round trip that opening a connection takes.
                assert time.monotonic() - begun > 1.4 * RTT_MS / 1000
                accepted.close()
            for line, event in (('{"delay_ms": 1}', "set"), ('{"speed": 1}', "error"), ("stats", "stats")):
                process.stdin.write(line + "\n")
                process.stdin.flush()
                assert said()["event"] == event
            process.send_signal(signal.SIGTERM)
            stats = said()["stats"]
            assert (stats["opened"], stats["up"]["bytes"]) == (1, 5)
            assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--to", "worker"], "'worker' is not HOST:PORT"),
        (["--to", "127.0.0.1:9", "--listen", "192.0.2.1:9"], "cannot listen on 192.0.2.1:9: Cannot assign"),
        (["--to", "127.0.0.1:9", "--rtt-ms", "10", "--jitter-ms", "6"], "--jitter-ms: 6 is above 5, half of --rtt-ms"),
        ([], "Missing option '--to'"),
    ],
)
def test_what_cannot_be(words: list[str], problem: str) -> None:
    result = CliRunner().invoke(cli, ["relay", *words])
    assert result.exit_code in (1, 2)
    assert problem in result.output
