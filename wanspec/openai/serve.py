"""The front's HTTP server: uvicorn on a socket that is bound first, so that a port in use is told at once."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import uvicorn
from starlette.applications import Starlette

from wanspec.errors import ConfigError

KEEP_ALIVE_S, END_S = 60, 5


def bind(host: str, port: int) -> socket.socket:
    """Listen on ``host:port``.

    Raises:
        ConfigError: that cannot be.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio sends small pieces at once only on sockets that name TCP.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("host", f"{host!r} is no address of this machine: {error.strerror}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError("port", f"cannot listen on {host}:{port}: {error.strerror}; choose another") from error
    return listener


class _Server(uvicorn.Server):
    """Tells answers that are still under way some seconds after a signal to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.get_running_loop().call_later(END_S, self.config.app.state.stopping.set)  # type: ignore[union-attr]
        await super().shutdown(sockets)
        ending.cancel()


def make_server(app: Starlette) -> uvicorn.Server:
    """Make a server; ``run(sockets=[bind(...)])`` serves until a signal, which it passes on once it has stopped."""
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=END_S + 5,
            lifespan="on",
        )
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
