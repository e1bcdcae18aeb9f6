"""``wanspec config``: show, check and describe the configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.exit_codes import ExitCode

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def config() -> None:
    """Show, check and describe the configuration, which gives the defaults of other commands' options."""


@config.command(cls=JsonErrors)
@click.argument("file", type=FILE, required=False, envvar="WANSPEC_CONFIG")
@JSON_OPTION
def show(file: Path | None, as_json: bool) -> None:
    """Print every value in effect: the defaults, FILE's, and those of the environment; the last go first.

    \b
    Examples:
      wanspec config show
      wanspec config show wanspec.yaml
      WANSPEC_LINK__RTT_MS=70 wanspec config show --json
    """
    from wanspec.config import load
    from wanspec.config.reference import as_yaml

    loaded = load(file)
    if as_json:
        click.echo(json.dumps(loaded.config.model_dump(mode="json"), indent=2))
    else:
        click.echo(as_yaml(loaded), nl=False)


@config.command(
    cls=JsonErrors, done="the configuration is valid", failed="it is not; each problem is named by its place"
)
@click.argument("file", type=FILE, required=False, envvar="WANSPEC_CONFIG")
@JSON_OPTION
def check(file: Path | None, as_json: bool) -> None:
    """Say what is wrong with FILE and with the environment's overrides, by line and column.

    \b
    Examples:
      wanspec config check wanspec.yaml
      wanspec config check wanspec.yaml --json
    """
    from wanspec.config import load
    from wanspec.config.problems import InvalidConfigError, Problem

    problems: tuple[Problem, ...] = ()
    try:
        load(file)
    except InvalidConfigError as error:
        problems = error.problems
    if as_json:
        click.echo(json.dumps({"problems": [_plain(problem) for problem in problems]}, indent=2))
    elif problems:
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
    else:
        click.echo("the configuration is valid")
    sys.exit(ExitCode.FAILED if problems else ExitCode.DONE)


@config.command(cls=JsonErrors)
@click.option("--markdown", "as_page", is_flag=True, help="The reference page: docs/configuration.md.")
@JSON_OPTION
def schema(as_page: bool, as_json: bool) -> None:
    """Print the JSON Schema of the configuration (--json changes nothing).

    \b
    Examples:
      wanspec config schema > wanspec.schema.json
      wanspec config schema --markdown > docs/configuration.md
    """
    from wanspec.config.reference import markdown
    from wanspec.config.schema import Config

    if as_page and as_json:
        raise click.UsageError("give --markdown or --json, not both")
    click.echo(markdown() if as_page else json.dumps(Config.model_json_schema(), indent=2), nl=not as_page)


def _plain(problem: Any) -> dict[str, Any]:
    place = problem.place
    return {
        "source": place.source,
        "line": place.line,
        "column": place.column,
        "field": problem.field,
        "message": problem.message,
    }
