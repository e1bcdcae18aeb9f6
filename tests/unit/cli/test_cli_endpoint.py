"""``--url``: what is refused as it is typed, and how what is not our endpoint is explained."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import click
import pytest

from wanspec.cli.endpoint import EndpointType, endpoint_parameters
from wanspec.errors import ServerError
from wanspec.network.ports import reserve_ports


class Client:
    """A client whose endpoint does not serve the model."""

    def __init__(self, served: list[str] | None = None) -> None:
        self._served = served

    def parameters(self) -> dict[str, str]:
        raise ServerError("unknown model")

    def models(self) -> list[str]:
        if self._served is None:
            raise ServerError("nobody")
        return self._served


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost:1", "[::1]:65535", "a.b-c.example:8001"])
def test_host_and_port_pass(url: str) -> None:
    assert EndpointType()(url) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost", "HOST:PORT"),
        (":8001", "HOST:PORT"),
        ("localhost:", "HOST:PORT"),
        ("::1:8001", "HOST:PORT"),
        ("localhost:0", "1 to 65535"),
        ("localhost:65536", "1 to 65535"),
        ("http://localhost:8001", "without http://"),
        ("localhost:8001/v2", "without http://"),
    ],
)
def test_anything_else_is_refused(url: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        EndpointType()(url)


@pytest.fixture
def http_port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        yield server.server_address[1]


def test_an_http_port_is_called_that(http_port: int) -> None:
    with pytest.raises(ServerError, match="not a gRPC port: it answers HTTP"):
        endpoint_parameters(Client(), f"127.0.0.1:{http_port}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (["draft", "target", "wanspec"], "not ready yet"),
        (["wanspec_worker"], r"without the model 'wanspec' \(it has: wanspec_worker\)"),
        (None, "wanspec up"),
    ],
)
def test_what_is_there_instead(served: list[str] | None, said: str) -> None:
    with reserve_ports(1) as (port,), pytest.raises(ServerError, match=said):
        endpoint_parameters(Client(served), f"127.0.0.1:{port}")  # type: ignore[arg-type]
