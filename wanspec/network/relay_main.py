"""``python -m wanspec.network.relay``: one relay as a process, controlled by lines on stdin.

A line is ``stats``, ``stop``, or a JSON object of changes such as ``{"delay_ms": 50, "state": "off"}``. Answers are
JSON lines on stdout: ``{"event": "listening", "port": n}``, ``{"event": "set"}``, ``{"event": "error", "problem":
text}``, ``{"event": "stats", "stats": {...}}`` (also at the end); ``{"event": "failed", "problem": text}`` if it does
not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from wanspec.errors import ConfigError, WanspecError
from wanspec.network.relay import Relay
from wanspec.network.shape import LinkShape, Script

PARENT_POLL_S = 0.5


@click.command()
@click.option("--listen", type=int, default=0, help="Port of 127.0.0.1 to listen on; 0 chooses one.")
@click.option("--to", "target", required=True, help="HOST:PORT to relay to.")
@click.option("--delay-ms", type=float, default=0.0, help="One-way delay.")
@click.option("--jitter-ms", type=float, default=0.0, help="Variation of the delay either way.")
@click.option("--rate-mbps", type=float, default=None, help="Bandwidth of each direction.")
@click.option("--loss", type=float, default=0.0, help="Probability that a packet is lost.")
@click.option("--shape", "more", default="{}", help="Further properties of the link, as a JSON object.")
@click.option(
    "--script", default="[]", help='Changes over time, e.g. [[1000, {"state": "off"}], [3000, {"state": "on"}]].'
)
@click.option("--seed", type=int, default=0, help="Of jitter and loss.")
@click.option("--time-scale", type=float, default=1.0, help="Multiplies every duration.")
@click.option("--end-with-parent", is_flag=True, help="Stop when stdin closes or the parent process ends.")
def main(
    listen: int,
    target: str,
    delay_ms: float,
    jitter_ms: float,
    rate_mbps: float | None,
    loss: float,
    more: str,
    script: str,
    seed: int,
    time_scale: float,
    end_with_parent: bool,
) -> None:
    """Relay TCP connections over an emulated WAN path; JSON statistics at the end."""
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{target!r} given; it must be HOST:PORT", param_hint="--to")
    try:
        shape = LinkShape(delay_ms, jitter_ms, rate_mbps, loss).changed(_parsed("--shape", more, dict))
        changes: Script = _parsed("--script", script, list)
        relay = Relay(
            host, int(port), shape, listen_port=listen or None, seed=seed, time_scale=time_scale, script=changes
        )
        # Timing first: no garbage collection, and ahead of the models' processes where we may.
        gc.disable()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -10)
        asyncio.run(Session(relay, _answer, end_with_parent=end_with_parent).run())
    except WanspecError as error:
        _answer(event="failed", problem=str(error))
        raise click.ClickException(str(error)) from error


class Session:
    """A relay and its control lines."""

    def __init__(self, relay: Relay, answer: Callable[..., None], *, end_with_parent: bool = False) -> None:
        """``answer`` is called with the fields of each answer; the module's text has them."""
        self._relay = relay
        self._answer = answer
        self._end_with_parent = end_with_parent
        self._parent = os.getppid()
        self._pending = b""
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Relay until a signal, ``stop`` or the end of the parent.

        Raises:
            ServerError: the port is taken, or the address is none of this machine.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._done.set)
        await self._relay.start()
        self._answer(event="listening", port=self._relay.port)
        with contextlib.suppress(OSError):  # a regular file cannot be waited for
            loop.add_reader(0, self._read)
        try:
            await self._wait_for_the_end()
        finally:
            loop.remove_reader(0)
            stats = self._relay.stats()
            await self._relay.stop()
            self._answer(event="stats", stats=stats.as_dict())

    async def _wait_for_the_end(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._done.wait(), PARENT_POLL_S)
            if self._end_with_parent and os.getppid() != self._parent:
                return

    def _read(self) -> None:
        received = os.read(0, 1 << 16)
        if not received:
            asyncio.get_running_loop().remove_reader(0)
            if self._end_with_parent:
                self._done.set()
        *lines, self._pending = (self._pending + received).split(b"\n")
        for line in lines:
            self._obey(line.decode("utf-8", "replace").strip())

    def _obey(self, line: str) -> None:
        if line == "stop":
            self._done.set()
        elif line == "stats":
            self._answer(event="stats", stats=self._relay.stats().as_dict())
        elif line:
            try:
                self._relay.apply(_parsed("line", line, dict))
            except ConfigError as error:
                self._answer(event="error", problem=str(error))
            else:
                self._answer(event="set")


def _parsed(field: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(field, f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ConfigError(field, f"{text!r} is not a JSON {'object' if kind is dict else 'array'}")
    return value


def _answer(**message: object) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
