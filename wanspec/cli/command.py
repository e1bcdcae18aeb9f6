"""What the commands share: documented exit codes, errors as JSON for programs, settings of a policy."""

from __future__ import annotations

import errno
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from wanspec.cli import exit_codes
from wanspec.cli.exit_codes import ExitCode
from wanspec.errors import BusyError, WanspecError

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


CURES: Mapping[int, str] = {
    errno.ENOENT: "check the name; the folder must exist",
    errno.EACCES: "choose a file that you may write, or read",
    errno.EISDIR: "name a file in it",
    errno.ENOSPC: "make room, or choose another disk",
    errno.EROFS: "choose another disk",
}
"""What to do about errors of files."""


class _Busy(click.ClickException):
    """Ends the process with an exit code of its own."""

    exit_code = ExitCode.BUSY


class JsonErrors(click.Command):
    """A command whose help tells its exit codes, and whose errors name options as they are typed.

    With ``--json`` errors are JSON on standard output.
    """

    def __init__(
        self, *arguments: Any, done: str = exit_codes.DONE, failed: str = exit_codes.FAILED, **more: Any
    ) -> None:
        """``done``, ``failed``: what exit codes 0 and 1 mean here; the rest is click's."""
        super().__init__(*arguments, **more)
        self.exit_codes = dict(exit_codes.meanings(done, failed))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the exit codes."""
        super().format_epilog(ctx, formatter)
        write_exit_codes(formatter, self.exit_codes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; what is wrong with the command line is JSON too where that is asked for."""
        as_json = asks_for_json(self, args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            fail_usage(error, as_json)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            fail_usage(error, bool(ctx.params.get("as_json")))
        except WanspecError as error:
            self._fail(ctx, as_typed(str(error), self), error)
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.filename is None:
                raise
            cure = CURES.get(error.errno or 0)
            self._fail(ctx, f"{error.filename}: {error.strerror}" + (f"; {cure}" if cure else ""), error)

    def _fail(self, ctx: click.Context, message: str, error: Exception) -> NoReturn:
        busy = isinstance(error, BusyError)
        if not ctx.params.get("as_json"):
            raise (_Busy if busy else click.ClickException)(message) from error
        click.echo(json.dumps({"error": message} | ({"code": BusyError.CODE} if busy else {})))
        sys.exit(ExitCode.BUSY if busy else ExitCode.FAILED)


def asks_for_json(command: click.Command, args: Sequence[str]) -> bool:
    """Whether a command line that may be wrong has ``--json``."""
    options = args[: args.index("--")] if "--" in args else args
    return "--json" in options and any("--json" in param.opts for param in command.params)


def fail_usage(error: click.UsageError, as_json: bool) -> NoReturn:
    """End for a wrong command line: by the exception, or with JSON on standard output."""
    if not as_json:
        raise error
    click.echo(json.dumps({"error": error.format_message()}))
    sys.exit(ExitCode.USAGE)


def write_exit_codes(formatter: click.HelpFormatter, codes: Mapping[ExitCode, str]) -> None:
    """Write the table of exit codes at the end of a help text."""
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(int(code)), meaning) for code, meaning in codes.items()])


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
