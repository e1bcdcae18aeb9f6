"""``--config``: a configuration gives the defaults of a command's options; what is typed goes before it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from wanspec.cli.command import JsonErrors, asks_for_json
from wanspec.cli.exit_codes import ExitCode
from wanspec.errors import WanspecError

PARAMETERS: Mapping[tuple[str, str], str] = {
    ("regions", "local_draft"): "no_local_draft",
    ("policy", "name"): "policy",
    ("policy", "parameters"): "settings",
    **{("traces", name): f"trace_{name}" for name in ("url", "rate", "slow_ms", "content")},
}
"""A command's parameters for fields of a configuration, where they differ in more than the section."""

Function = TypeVar("Function", bound=Callable[..., Any])


def config_option(function: Function) -> Function:
    """``--config``."""
    option = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="WANSPEC_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_take,
        help="YAML file with defaults for these options (WANSPEC_CONFIG does the same): `wanspec config`.",
    )
    return option(function)


class ConfiguredCommand(JsonErrors):
    """A command with ``--config``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; a configuration that is wrong is an error like one of the command itself."""
        as_json = asks_for_json(self, args)
        try:
            rest = super().parse_args(ctx, args)
        except WanspecError as error:
            if not as_json:
                raise click.ClickException(str(error)) from error
            click.echo(json.dumps({"error": str(error)}))
            sys.exit(ExitCode.FAILED)
        _settle(ctx)
        return rest


def parameter(section: str, name: str) -> str:
    """The parameter of commands that a field gives the default of."""
    return PARAMETERS.get((section, name), name)


def _take(ctx: click.Context, option: click.Parameter, file: Path | None) -> None:
    if file is None and not any(name.startswith("WANSPEC_") and "__" in name for name in os.environ):
        return
    from wanspec.config import load  # with pydantic, which nobody else need wait for

    loaded = load(file)
    mine = {parameter.name for parameter in ctx.command.params}
    defaults = {parameter(section, name): _typed(name, value) for section, name, value in loaded.given()}
    if defaults.get("settings"):
        defaults.setdefault("policy", loaded.config.policy.name)  # whose parameters they are
    ctx.default_map = {name: value for name, value in defaults.items() if name in mine and value is not None}


def _typed(name: str, value: Any) -> Any:
    """A field's value as the command line has it."""
    if name == "local_draft":
        return not value
    if name == "pace_ms":
        return f"{value.target},{value.draft},{value.worker}"
    if name == "parameters":
        return [f"{parameter}={setting}" for parameter, setting in value.items()]
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def _settle(ctx: click.Context) -> None:
    """Where options go together, those that are typed replace the configured ones as a whole."""
    params = ctx.params
    configured = ctx.default_map or {}

    def typed(name: str) -> bool:
        return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE

    for names, others in ((("pair",), ("target", "draft")), (("target", "draft"), ("pair",))):
        if any(map(typed, names)):
            params.update({name: None for name in others if name in params and not typed(name)})
    if not configured.get("settings"):
        return
    if typed("policy") and params["policy"] != configured.get("policy"):
        params["settings"] = params["settings"] if typed("settings") else ()
    elif typed("settings"):
        params["settings"] = (*configured["settings"], *params["settings"])
