"""``wanspec relay``: the emulated WAN by itself, between servers that were started otherwise."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.endpoint import EndpointType
from wanspec.cli.regions import link_shape, path_options, rtt_option
from wanspec.network.relay import Relay
from wanspec.network.relay_main import Session

LISTEN = "127.0.0.1:8101"


@click.command("relay", cls=JsonErrors)
@click.option("--listen", type=EndpointType(), default=LISTEN, show_default=True, help="Where it takes connections.")
@click.option("--to", "target", type=EndpointType(), required=True, help="Where they go: a worker's gRPC.")
@rtt_option
@path_options
@click.option("--time-scale", type=click.FloatRange(0.01, 1000), default=1.0, help="Stretches every time.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of jitter and loss.")
@JSON_OPTION
def relay(listen: str, target: str, seed: int, time_scale: float, as_json: bool, **options: Any) -> None:
    """Relay TCP connections over an emulated WAN path, until Ctrl-C. TLS passes through as it is.

    Give a controller the relay's address as --worker-url. Lines on standard input change the path while it runs:
    {"delay_ms": 50}, {"state": "off"}, or ask: stats.

    \b
    Examples:
      wanspec relay --to 127.0.0.1:8001 --rtt-ms 70
      wanspec relay --listen 0.0.0.0:8001 --to worker:8001 --rtt-ms 30 --jitter-ms 3 --json
    """
    shape = link_shape(**options, time_scale=time_scale)
    (host, port), (to_host, to_port) = _split(listen), _split(target)

    def answer(event: str, **more: Any) -> None:
        if as_json:
            click.echo(json.dumps({"event": event, **more}))
        elif event == "listening":
            click.echo(f"relaying {host}:{more['port']} to {target}, {shape.rtt_ms:g} ms round trip; Ctrl-C ends")
        elif event == "error":
            click.echo(f"error: {more['problem']}", err=True)
        elif event == "stats":
            up, down = more["stats"]["up"]["bytes"], more["stats"]["down"]["bytes"]
            click.echo(f"{more['stats']['opened']} connections, {up:,} bytes there, {down:,} bytes back")

    running = Relay(to_host, to_port, shape, listen_host=host, listen_port=port, seed=seed, time_scale=time_scale)
    asyncio.run(Session(running, answer).run())


def _split(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition(":")
    return host.strip("[]"), int(port)
