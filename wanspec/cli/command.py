"""What the commands share: errors as JSON for programs, the options that describe regions."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import click

from wanspec.errors import WanspecError

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class JsonErrors(click.Command):
    """A command whose errors name options as they are typed; as JSON on standard output where ``--json`` was given."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except WanspecError as error:
            message = as_typed(str(error), self)
            if not ctx.params.get("as_json"):
                raise click.ClickException(message) from error
            click.echo(json.dumps({"error": message}))
            sys.exit(1)


def as_typed(message: str, command: click.Command) -> str:
    """Rewrite the field that an error begins with as the command's option: ``grpc_port: ...`` as ``--grpc-port: ...``.

    A list of alternatives that ends in nothing is completed.
    """
    options = {param.name: param.opts[0] for param in command.params if isinstance(param, click.Option)}
    field, colon, problem = message.partition(": ")
    name, dot, parameter = field.partition(".")
    if colon and name == "policy_parameters" and dot:
        field = f"--set {parameter}"
    elif colon and field in options:
        field = options[field]
    return re.sub(r"; it has\s*$", "; it has none", f"{field}{colon}{problem}")


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
