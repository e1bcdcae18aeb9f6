"""Options that bound the endpoint's work: shared names, defaults and limits with the configuration's ``limits``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from wanspec.defaults import default_of
from wanspec.errors import ConfigError
from wanspec.triton.regions import RegionSettings

LIMITS: Mapping[str, tuple[click.ParamType[Any], str]] = {
    "max_draft_len": (click.IntRange(0, 256), "Most drafts in one verification."),
    "engine_timeout_ms": (click.FloatRange(1), "Longest engine call."),
    "max_sequences": (click.IntRange(1, 1024), "Most requests that decode at once; others wait."),
    "max_reserved_tokens": (
        click.IntRange(2),
        "Most tokens, prompts and max_tokens, of these together; default: no limit.",
    ),
    "max_queue": (click.IntRange(0, 65_536), "Most requests that wait; more are refused as busy."),
    "deadline_ms": (click.FloatRange(1), "Longest time for requests that do not say."),
    "max_deadline_ms": (click.FloatRange(1), "Longest time for any request."),
}

Function = TypeVar("Function", bound=Callable[..., Any])


def limit_options(function: Function) -> Function:
    """``--max-sequences`` and the other limits."""
    for name, (kind, text) in reversed(list(LIMITS.items())):
        default = default_of(RegionSettings, name)
        flag = "--" + name.replace("_", "-")
        click.option(flag, type=kind, default=default, show_default=default is not None, help=text)(function)
    return function


def limits_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The limits as settings of regions.

    Raises:
        ConfigError: requests that do not say would have longer than any may.
    """
    if options["deadline_ms"] > options["max_deadline_ms"]:
        raise ConfigError(
            "--deadline-ms", f"{options['deadline_ms']:g} is above --max-deadline-ms, {options['max_deadline_ms']:g}"
        )
    return {name: options[name] for name in LIMITS}
