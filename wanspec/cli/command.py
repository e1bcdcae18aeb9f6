"""What the commands share: errors as JSON for programs, the options that describe regions."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import click

from wanspec.errors import WanspecError

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class JsonErrors(click.Command):
    """A command whose errors are ``{"error": ...}`` on standard output too where ``--json`` was given."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except WanspecError as error:
            if not ctx.params.get("as_json"):
                raise click.ClickException(str(error)) from error
            click.echo(json.dumps({"error": str(error)}))
            sys.exit(1)


def quiet_libraries() -> None:
    """Keep warnings of the package's loggers off the screen: errors reach the user as messages with a cure."""
    logging.getLogger("wanspec").addHandler(logging.NullHandler())


def parse_settings(given: tuple[str, ...]) -> dict[str, float | int | str]:
    """Read ``name=value`` settings of a policy: whole numbers, numbers, or words.

    Raises:
        click.BadParameter: no ``=``, or no name.
    """
    settings: dict[str, float | int | str] = {}
    for item in given:
        name, found, value = item.partition("=")
        if not found or not name or not value:
            raise click.BadParameter(f"{item!r} is not name=value, such as k=3", param_hint="--set")
        settings[name] = _number(value)
    return settings


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
