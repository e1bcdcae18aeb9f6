"""``wanspec tail``: what a running endpoint does, again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from wanspec.cli.command import JSON_OPTION
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.control import as_option
from wanspec.cli.endpoint import EndpointType, endpoint_parameters
from wanspec.cli.readings import History, Reading
from wanspec.cli.render import make_console
from wanspec.cli.tail_view import line, screen
from wanspec.errors import InvalidRequestError, WanspecError
from wanspec.triton.auth import read_token
from wanspec.triton.client import DEFAULT_URL, WanspecClient


@click.command(cls=ConfiguredCommand, done="Ctrl-C, or as many readings as were asked for")
@config_option
@click.option("--url", type=EndpointType(), default=DEFAULT_URL, show_default=True, help="gRPC of the endpoint.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="s between readings."
)
@click.option(
    "--window", type=click.FloatRange(1, 3600), default=10.0, show_default=True, help="s that rates are over."
)
@click.option("--count", type=click.IntRange(1), help="End after so many readings.")
@click.option("--once", is_flag=True, help="One reading; an endpoint that does not answer is an error.")
@click.option(
    "--auth-token-file", type=click.Path(dir_okay=False, path_type=Path), help="Where the endpoint wants a token."
)
@click.option("--no-color", is_flag=True, help="No colours (NO_COLOR does the same).")
@JSON_OPTION
def tail(
    url: str,
    interval: float,
    window: float,
    count: int | None,
    once: bool,
    auth_token_file: Path | None,
    no_color: bool,
    as_json: bool,
) -> None:
    """Watch a running endpoint: requests, tokens, acceptance, round trips, what the worker saves. Ctrl-C ends it.

    On a terminal it is a view that is drawn anew; elsewhere a line for each reading. An endpoint that is gone is told,
    and asked again until it is back.

    \b
    Examples:
      wanspec tail
      wanspec tail --url controller:8001 --interval 5
      wanspec tail --once --json            one reading for programs
      wanspec tail --json > readings.jsonl  an object a line
    """
    client = WanspecClient(url)
    token = read_token(str(auth_token_file or ""))
    if once:
        endpoint_parameters(client, url)  # says what is there instead
    readings = _readings(client, token, interval, window, 1 if once else count, fails=once)
    try:
        if as_json:
            for reading in readings:
                click.echo(json.dumps(reading.as_dict()))
        else:
            _show(readings, make_console(color=not no_color), url, live=not once)
    except KeyboardInterrupt:
        pass  # that is how it ends


def _show(readings: Iterator[Reading], console: Console, url: str, *, live: bool) -> None:
    with ExitStack() as stack:
        shown: Live | None = None
        for reading in readings:
            if not console.is_terminal or console.is_dumb_terminal:
                console.print(line(reading), markup=False, soft_wrap=True)
                console.file.flush()
            elif not live:
                console.print(screen(reading, url))
            elif shown is None:
                first = screen(reading, url)
                shown = stack.enter_context(Live(first, console=console, auto_refresh=False, screen=False))
            else:
                shown.update(screen(reading, url), refresh=True)


def _readings(
    client: WanspecClient, token: str, interval: float, window: float, most: int | None, *, fails: bool
) -> Iterator[Reading]:
    """Ask at every interval.

    Raises:
        WanspecError: the first reading failed, if ``fails``.
        ConfigError: the endpoint wants another token.
    """
    history = History(window)
    taken = 0
    due = time.monotonic()
    while True:
        try:
            state = client.control({}, token)
            yield history.add(time.monotonic(), datetime.now(), state)
        except InvalidRequestError as error:
            raise as_option(error) from error
        except WanspecError as error:
            if fails:
                raise
            yield history.failed(datetime.now(), str(error))
        taken += 1
        if taken == most:
            return
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
