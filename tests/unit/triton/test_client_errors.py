"""The client where nobody answers."""

from __future__ import annotations

import socket
import threading

import pytest

from wanspec.errors import RequestCancelledError, UnavailableError
from wanspec.network.ports import reserve_ports
from wanspec.triton.client import WanspecClient


def test_an_endpoint_that_is_not_there_is_unavailable_however_soon_that_is_known() -> None:
    with reserve_ports(1) as (port,):
        client = WanspecClient(f"127.0.0.1:{port}", timeout_s=20.0)
        assert not client.ready()
        for _ in range(20):
            with pytest.raises(UnavailableError, match="failed to connect"):
                client.ask("x").result()


def test_whoever_waits_can_be_interrupted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pending = WanspecClient(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=20.0).ask("x")
        threading.Timer(0.05, pending.interrupt).start()
        with pytest.raises(RequestCancelledError):
            pending.result()
