"""The options that say what is asked of a running endpoint, and where it is: of ``generate`` and ``chat``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from wanspec.cli.command import parse_settings
from wanspec.cli.endpoint import endpoint_options
from wanspec.core.policies import POLICIES

Function = TypeVar("Function", bound=Callable[..., Any])

SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "seed")
"""Options that are inputs of the endpoint as they are."""

_OPTIONS = (
    click.option("--policy", type=click.Choice(list(POLICIES)), help="Default: the endpoint's."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of it; repeatable."),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer; default: the endpoint's."),
    click.option("--temperature", type=click.FloatRange(min=0), help="Above 0 answers are drawn; default: 0, greedy."),
    click.option("--top-k", type=click.IntRange(min=0), help="Draw from so many tokens only; default: 0, all."),
    click.option(
        "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from so much probability only; default: 1."
    ),
    click.option(
        "--seed", type=click.IntRange(0, (1 << 64) - 1), help="Repeats an answer; default: another each time."
    ),
    click.option("--no-color", is_flag=True, help="No colours (NO_COLOR does the same)."),
)


def request_options(function: Function) -> Function:
    """``--url`` and its TLS, ``--policy``, sampling and ``--no-color``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return endpoint_options()(function)


def inputs_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``WanspecClient.ask`` that these options give.

    Raises:
        click.BadParameter: ``--set`` without a name and a value.
    """
    parameters = parse_settings(options["settings"])
    return {name: options[name] for name in ("policy", *SAMPLING)} | {"policy_parameters": parameters}
