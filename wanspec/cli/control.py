"""``wanspec control``: what a running endpoint does now, and its switches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from wanspec.cli.command import JSON_OPTION, parse_settings
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.endpoint import endpoint_options, endpoint_parameters
from wanspec.cli.render import make_console
from wanspec.cli.tables import table
from wanspec.core.control import Speculation
from wanspec.core.policies import POLICIES
from wanspec.errors import ConfigError, InvalidRequestError
from wanspec.network.tls import Tls
from wanspec.triton.auth import read_token
from wanspec.triton.client import WanspecClient


@click.command(cls=ConfiguredCommand)
@config_option
@endpoint_options()
@click.option(
    "--speculation",
    type=click.Choice([each.value for each in Speculation]),
    help="Whose drafts are verified: nobody's, the local draft's, the same with the worker's counted, or all.",
)
@click.option("--policy", "new_policy", type=click.Choice(list(POLICIES)), help="Of requests that name none.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A parameter of that policy; repeatable.")
@click.option(
    "--auth-token-file", type=click.Path(dir_okay=False, path_type=Path), help="Where the endpoint wants a token."
)
@click.option("--no-color", is_flag=True, help="No colours (NO_COLOR does the same).")
@JSON_OPTION
def control(
    url: str,
    tls: Tls | None,
    speculation: str | None,
    new_policy: str | None,
    changes: tuple[str, ...],
    auth_token_file: Path | None,
    no_color: bool,
    as_json: bool,
) -> None:
    """Show what a running endpoint does, or set its switches first. Nothing restarts; output stays the same.

    Running requests follow from their next round on. With `off` and `local` the worker is told to stop; `shadow` has it
    draft and verifies none of it, which shows what `remote` would save. Switches last until the endpoint restarts.

    \b
    Examples:
      wanspec control
      wanspec control --speculation off        the kill switch
      wanspec control --speculation shadow
      wanspec control --policy local --set k=3
      wanspec control --json
    """
    wanted: dict[str, Any] = {"speculation": speculation, "policy": new_policy}
    wanted["policy_parameters"] = parse_settings(changes) or None
    client = WanspecClient(url, tls=tls)
    endpoint_parameters(client, url)  # says what is there instead
    token = read_token(str(auth_token_file or ""))
    try:
        state = client.control({name: value for name, value in wanted.items() if value is not None}, token)
    except InvalidRequestError as error:
        raise as_option(error) from error
    if as_json:
        click.echo(json.dumps(state, indent=2))
        return
    make_console(color=not no_color).print(state_view(state))


def state_view(state: Mapping[str, Any]) -> Table:
    """The state as a table of two columns."""
    view = table("endpoint!", "now")
    for name, value in _rows(state):
        view.add_row(name, value)
    return view


def _rows(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    limits, totals = state["limits"], state["totals"]
    parameters = ", ".join(f"{name}={value}" for name, value in state["policy_parameters"].items())
    yield "speculation", state["speculation"]
    yield "default policy", state["policy"] + (f" ({parameters})" if parameters else "")
    yield "links", ", ".join(state["links"]) or "none"
    yield (
        "requests",
        f"{state['running']:,} decode{_of(limits['sequences'])}, {state['waiting']:,} wait" + _of(limits["queue"]),
    )
    yield "reserved tokens", f"{state['reserved_tokens']:,}{_of(limits['reserved_tokens'])}"
    yield (
        "deadline",
        f"{limits['deadline_ms'] / 1e3:,g} s unless asked for, {limits['max_deadline_ms'] / 1e3:,g} s at most",
    )
    yield "ended", ", ".join(f"{reason} {count:,}" for reason, count in sorted(totals["ended"].items())) or "none"
    yield "tokens", f"{totals['tokens']:,} in {totals['rounds']:,} rounds"
    for origin in ("local", "remote"):
        drafted, accepted = totals[f"drafted_{origin}"], totals[f"accepted_{origin}"]
        passes = f"{totals[f'{origin}_draft_passes']:,} passes"
        yield f"{origin} drafts", f"{passes}, {drafted:,} verified, {accepted:,} accepted" + _share(accepted, drafted)
    shadow = totals["shadow"]
    if shadow["rounds"]:
        yield (
            "shadow",
            f"{shadow['tokens_covered']:,} of {shadow['tokens']:,} tokens"
            f"{_share(shadow['tokens_covered'], shadow['tokens'])} and {shadow['passes_covered']:,} of "
            f"{shadow['passes']:,} local draft passes{_share(shadow['passes_covered'], shadow['passes'])} "
            "would have been covered by the worker",
        )


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {limit:,}"


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""


def as_option(error: InvalidRequestError) -> ConfigError:
    """What is wrong with a control request, under the option's name."""
    field = error.field.removeprefix("control.")
    return ConfigError("auth_token_file" if field == "token" else field, str(error).partition(": ")[2])
