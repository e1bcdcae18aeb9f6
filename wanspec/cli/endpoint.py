"""Where an endpoint is, ``--url`` and its TLS: checked as it is typed, and explained where nothing of ours answers."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from wanspec.cli.progress import waiting
from wanspec.errors import ServerError
from wanspec.network.tls import tls_of
from wanspec.triton.client import DEFAULT_URL, MODEL, WanspecClient

PROBE_TIMEOUT_S = 2.0
TLS_OPTIONS = {
    "tls_ca": "PEM of the authority that signed the endpoint's certificate; TLS, and not plaintext, from here on.",
    "tls_cert": "PEM of the certificate to show, where the endpoint asks for one; with --tls-key.",
    "tls_key": "PEM of its key.",
}
TLS_NAMES = ("tls_ca", "tls_cert", "tls_key")

Function = TypeVar("Function", bound=Callable[..., Any])


class EndpointType(click.ParamType[str]):
    """``HOST:PORT`` of gRPC; an IPv6 address in brackets."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it."""
        text = str(value)
        if "://" in text or "/" in text:
            self.fail(f"{text!r}: give HOST:PORT of gRPC alone, such as {DEFAULT_URL}, without http:// and path")
        matched = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+):(\d+)", text)
        if matched is None:
            self.fail(f"{text!r} is not HOST:PORT of gRPC, such as {DEFAULT_URL}")
        if not 1 <= int(matched[2]) <= 65535:
            self.fail(f"{text!r}: the port must be 1 to 65535")
        return text


def endpoint_options(
    url: str | None = DEFAULT_URL, meaning: str = "gRPC of the endpoint."
) -> Callable[[Function], Function]:
    """``--url`` and the files of its TLS, which the command takes as ``url`` and ``tls``: a Tls, or None.

    Args:
        url: the default.
        meaning: of ``--url``.
    """
    pem = click.Path(dir_okay=False, path_type=Path)
    options = [click.option("--url", type=EndpointType(), default=url, show_default=url is not None, help=meaning)]
    options += [click.option(f"--{name.replace('_', '-')}", type=pem, help=text) for name, text in TLS_OPTIONS.items()]

    def decorate(function: Function) -> Function:
        @wraps(function)
        def called(*arguments: Any, **given: Any) -> Any:
            ca, certificate, key = (str(given.pop(name) or "") for name in TLS_NAMES)
            tls = tls_of(ca, certificate, key, TLS_NAMES)
            if tls is not None and given["url"] is None:
                raise click.UsageError("--tls-ca, --tls-cert and --tls-key go with --url")
            return function(*arguments, tls=tls, **given)

        for option in reversed(options):
            option(called)  # click collects options on the function itself
        return called  # type: ignore[return-value]

    return decorate


def endpoint_parameters(client: WanspecClient, url: str) -> dict[str, str]:
    """Return the endpoint's settings.

    Raises:
        ServerError: none there, or not ready; the message says what is there instead and what to do.
    """
    with waiting(f"asking {url}"):
        try:
            return client.parameters()
        except ServerError as error:
            raise ServerError(_explain(client, url, error)) from error


def _explain(client: WanspecClient, url: str, error: ServerError) -> str:
    if _speaks_http(url):
        return (
            f"{url}: this is not a gRPC port: it answers HTTP, as Triton's ports for HTTP and metrics do; "
            f"--url wants gRPC's, by default {DEFAULT_URL}"
        )
    try:
        served = client.models()
    except ServerError:
        if _speaks_tls(url):
            wanted = "give --tls-ca, and --tls-cert and --tls-key where it asks for a certificate"
            return f"{error}. It speaks TLS: {wanted}"
        return (
            f"{error}. Is an endpoint running there? `wanspec up` starts one; --url names it. "
            "If it is still starting, try again in a few seconds."
        )
    if MODEL in served:
        return f"{url}: not ready yet: its models are still loading; try again in a few seconds"
    return (
        f"{url}: a Triton without the model {MODEL!r} (it has: {', '.join(served) or 'none'}); "
        "--url wants the controller's gRPC, as `wanspec up` prints it"
    )


def _speaks_tls(url: str) -> bool:
    host, _, port = url.rpartition(":")
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S) as plain:
            anybody.wrap_socket(plain).close()
    except OSError:
        return False
    return True


def _speaks_http(url: str) -> bool:
    host, _, port = url.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
