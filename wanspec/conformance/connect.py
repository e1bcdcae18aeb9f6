"""Which client speaks to which address."""

from __future__ import annotations

from collections.abc import Mapping

from wanspec.conformance.grpc_server import GrpcServer
from wanspec.conformance.http_server import HttpServer
from wanspec.conformance.server import Server
from wanspec.errors import ConfigError
from wanspec.network.tls import Tls

PROTOCOLS = ("grpc", "http")


def connect(
    protocol: str,
    url: str,
    model: str,
    parameters: Mapping[str, str] | None = None,
    tls: Tls | None = None,
) -> Server:
    """Connect to a model.

    Args:
        protocol: ``grpc`` or ``http``.
        url: ``host:port`` of that protocol.
        model: its name at the server.
        parameters: string parameters that go with every request.
        tls: of gRPC; plaintext where None. Triton's HTTP has none.

    Raises:
        ConfigError: another protocol, or a file of ``tls`` that cannot be used.
        ServerError: the server does not answer, or has no such model.
    """
    if protocol == "grpc":
        return GrpcServer(url, model, parameters, tls=tls)
    if protocol == "http":
        return HttpServer(url, model, parameters)
    raise ConfigError("protocol", f"{protocol!r} is unknown: use one of {', '.join(PROTOCOLS)}")
