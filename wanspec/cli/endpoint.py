"""The ``--url`` of an endpoint: checked as it is typed, and explained where nothing of ours answers there."""

from __future__ import annotations

import http.client
import re
from typing import Any

import click

from wanspec.cli.progress import waiting
from wanspec.errors import ServerError
from wanspec.triton.client import DEFAULT_URL, MODEL, WanspecClient

PROBE_TIMEOUT_S = 2.0


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
