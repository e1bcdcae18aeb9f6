"""``wanspec serve-openai``: an OpenAI-compatible HTTP server before a running endpoint."""

from __future__ import annotations

import importlib.util
import json
import logging
from dataclasses import replace
from typing import Any

import click
from rich.console import Console

from wanspec.cli.command import JSON_OPTION, parse_settings
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.endpoint import endpoint_options, endpoint_parameters
from wanspec.cli.regions import check_policy
from wanspec.cli.render import make_console
from wanspec.core.policies import POLICIES
from wanspec.errors import ConfigError, ServerError
from wanspec.openai.settings import FrontSettings
from wanspec.triton.client import TIMEOUT_S, WanspecClient

_USUAL = FrontSettings()


@click.command("serve-openai", cls=ConfiguredCommand)
@config_option
@endpoint_options()
@click.option("--host", default=_USUAL.host, show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=_USUAL.port, show_default=True, help="Port.")
@click.option("--model-name", default=_USUAL.model, show_default=True, help="The model's name in requests.")
@click.option(
    "--api-key",
    help="Bearer token that clients must send. Other users see a command line: rather set WANSPEC_OPENAI__API_KEY.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 1024),
    default=_USUAL.max_requests,
    show_default=True,
    help="Answers under way at once; more get status 503.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=_USUAL.timeout_s,
    show_default=True,
    help="Longest time for an answer.",
)
@click.option("--policy", type=click.Choice(list(POLICIES)), help="Of requests that name none.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of it; repeatable.")
@click.option("--max-tokens", type=click.IntRange(1), help="Of requests that do not say; default: OpenAI's.")
@click.option("--temperature", type=click.FloatRange(0), help="The same; default: 1, as OpenAI's.")
@click.option("--top-k", type=click.IntRange(0), help="The same; default: 0, all tokens.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="The same; default: 1.")
@JSON_OPTION
def serve_openai(**options: Any) -> None:
    """Serve a running endpoint (`wanspec up` starts one) by OpenAI's HTTP API, until Ctrl-C.

    Takes /v1/models, /v1/completions and /v1/chat/completions, streamed or not; /health for probes.

    \b
    Examples:
      wanspec serve-openai
      wanspec serve-openai --url 10.0.0.5:8001 --port 8080 --temperature 0
      wanspec serve-openai --policy local --set k=3
      OPENAI_BASE_URL=http://127.0.0.1:9000/v1 OPENAI_API_KEY=none python my_client.py
    """
    for module in ("starlette", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise ConfigError("serve-openai", f"needs {module}: pip install 'wanspec[openai]'")
    from wanspec.openai.app import make_app
    from wanspec.openai.serve import bind, is_loopback, make_server

    console = make_console(stderr=options["as_json"])
    settings = _settings(options)
    client = WanspecClient(options["url"], timeout_s=min(TIMEOUT_S, settings.timeout_s), tls=options["tls"])
    with bind(settings.host, settings.port) as listener:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        base = f"http://{host}:{settings.port}/v1"
        problem = _problem(client, options["url"])
        if options["as_json"]:
            click.echo(json.dumps({"base_url": base, "model": settings.model, "endpoint": options["url"]}))
        else:
            _welcome(console, base, settings.model, options["url"])
        if problem:
            _warn(console, f"{problem.rstrip('.')}. Until it answers, requests get status 503.")
        if not is_loopback(settings.host) and not settings.api_key:
            _warn(console, "anybody who reaches this address can use it: --api-key asks for a token")
        logging.getLogger("wanspec").addHandler(logging.StreamHandler())
        make_server(make_app(client, settings)).run(sockets=[listener])


def _settings(options: dict[str, Any]) -> FrontSettings:
    parameters = parse_settings(options["settings"])
    if parameters and options["policy"]:
        check_policy(options["policy"], parameters)
    names = ("policy", "max_tokens", "temperature", "top_k", "top_p")
    usual = {name: options[name] for name in names if options[name] is not None}
    if parameters:
        usual["policy_parameters"] = parameters
    same = {name: options[name] for name in ("host", "port", "max_requests", "timeout_s")}
    return replace(_USUAL, model=options["model_name"], api_key=options["api_key"] or "", generation=usual, **same)


def _problem(client: WanspecClient, url: str) -> str:
    try:
        endpoint_parameters(client, url)
    except ServerError as error:
        return str(error)
    return ""


def _welcome(console: Console, base: str, model: str, url: str) -> None:
    console.print(f"Serving {url} as OpenAI's API.", style="bold", highlight=False)
    console.print(f"  base URL  {base}\n  model     {model}", soft_wrap=True, highlight=False)
    console.print("Ctrl-C stops it; the endpoint goes on.", style="dim")


def _warn(console: Console, line: str) -> None:
    console.print(line, style="yellow", markup=False, soft_wrap=True)
