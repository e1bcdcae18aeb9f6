"""``wanspec up``: two regions on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from wanspec.cli.command import JSON_OPTION, parse_settings
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.limits import limit_options, limits_of
from wanspec.cli.machine import cores
from wanspec.cli.progress import running
from wanspec.cli.regions import (
    STANDARD_PORTS,
    Pace,
    PaceType,
    check_policy,
    check_ports,
    choose_models,
    engine_options,
    engines,
    link_shape,
    model_names,
    network_options,
    trace_options,
    traces_of,
)
from wanspec.cli.render import make_console
from wanspec.cli.supervisor import Supervisor
from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.policies import POLICIES
from wanspec.errors import ConfigError
from wanspec.models import PAIRS
from wanspec.triton import logs
from wanspec.triton.auth import read_token
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import RegionSettings, with_stored_costs


@click.command(cls=ConfiguredCommand)
@config_option
@click.option("--pair", type=click.Choice(list(PAIRS)), help="Target and draft that fit; default: smollm2.")
@click.option("--target", metavar="MODEL", help="Name (`wanspec models list`), folder or hub id; with --draft.")
@click.option("--draft", metavar="MODEL", help="Of the target's own tokenizer.")
@network_options
@click.option(
    "--policy",
    type=click.Choice(list(POLICIES)),
    default=DEFAULT_POLICY,
    show_default=True,
    help="Of requests that name none.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of it; repeatable.")
@click.option("--no-local-draft", is_flag=True, help="No draft model beside the target.")
@engine_options
@click.option("--pace-ms", type=PaceType(), default=Pace(), help="Least duration of a step: target,draft,worker.")
@click.option("--context", type=click.IntRange(2), help="Longest sequence in tokens; default: the target's own.")
@limit_options
@click.option(
    "--compat", is_flag=True, help="Also serve tensorrt_llm, ensemble and more, for NVIDIA's example clients."
)
@click.option(
    "--decoupled", is_flag=True, help="With --compat: tensorrt_llm and ensemble can stream, and refuse unary calls."
)
@click.option("--grpc-port", type=click.IntRange(1, 65535), help="Default: 8001 if free.")
@click.option("--http-port", type=click.IntRange(1, 65535), help="Default: 8000 if free.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Default: 8002 if free.")
@click.option(
    "--auth-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Holds a token that the regions, and `wanspec control`, have to show.",
)
@click.option(
    "--worker-tls",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with ca.crt, server.crt, server.key, client.crt, client.key: mutual TLS between the regions.",
)
@trace_options
@click.option("--event-log", type=click.Path(dir_okay=False, path_type=Path), help="Write the controller's event log.")
@click.option(
    "--log-dir", type=click.Path(file_okay=False, path_type=Path), help="Where the servers' logs go and stay."
)
@JSON_OPTION
def up(**options: Any) -> None:
    """Start two regions with an emulated WAN between them; run until Ctrl-C.

    A worker that is lost is started again; answers go on meanwhile with local drafts.

    \b
    Examples:
      wanspec up
      wanspec up --pair small --rtt-ms 70 --jitter-ms 5
      wanspec up --target ./my-target --draft ./my-draft --policy local --set k=3
      wanspec up --pace-ms 100,30,30            steps as slow as a large deployment's
      wanspec up --compat                       for clients written for TensorRT-LLM
      wanspec up --config wanspec.yaml          see `wanspec config`
    """
    console = make_console(stderr=options["as_json"])
    settings = deployment_settings(options)
    regions, unused = with_stored_costs(settings.regions)
    for reason in unused:
        _tell(console, reason)
    deployment = Deployment(replace(settings, regions=regions))
    with running(deployment):
        if options["as_json"]:
            click.echo(json.dumps(endpoints(deployment)))
        else:
            _welcome(console, deployment, options)
        with Supervisor(deployment.controller, deployment.worker, lambda line: _tell(console, line)) as supervisor:
            supervisor.watch()


def deployment_settings(options: dict[str, Any]) -> DeploymentSettings:
    """Turn the command's options into settings; models are fetched if need be.

    Raises:
        click.UsageError: options that exclude each other.
        ConfigError: a value is out of its limits, or a port is in use.
        ModelError: a model is unknown or incomplete, or target and draft have different tokenizers.
    """
    if options["decoupled"] and not options["compat"]:
        raise click.UsageError("--decoupled goes with --compat: it says how tensorrt_llm and ensemble answer")
    scale = options["time_scale"]
    parameters = parse_settings(options["settings"])
    check_policy(options["policy"], parameters)
    link = link_shape(options["rtt_ms"], options["jitter_ms"], options["rate_mbps"], options["loss"], scale)
    ports = {kind: options[f"{kind}_port"] for kind in STANDARD_PORTS}
    check_ports(ports)
    if options["log_dir"] is not None:
        logs.make_folder(options["log_dir"])
    names = ("dtype", "weights", "device", "worker_device", "threads")
    each = engines(options["pace_ms"], **{name: options[name] for name in names})
    target, draft = choose_models(options["pair"], options["target"], options["draft"])
    regions = RegionSettings(
        target,
        draft,
        *each,
        local_draft_model=not options["no_local_draft"],
        time_scale=scale,
        streams=options["streams"],
        policy=options["policy"],
        policy_parameters=parameters,
        context=options["context"],
        **limits_of(options),
        auth_token_file=_token_file(options["auth_token_file"]),
        worker_tls=str(options["worker_tls"].absolute()) if options["worker_tls"] else "",
        event_log=_log_file(options["event_log"]),
        compat=options["compat"],
        decoupled=options["decoupled"],
        traces=traces_of(options),
    )
    return DeploymentSettings(
        regions,
        link,
        grpc_port=ports["grpc"],
        http_port=ports["http"],
        metrics_port=ports["metrics"],
        preferred_ports=STANDARD_PORTS,
        log_dir=options["log_dir"],
    )


def endpoints(deployment: Deployment) -> dict[str, Any]:
    """Where the endpoint and the logs are, as plain values."""
    controller, worker = deployment.controller, deployment.worker
    link = deployment.settings.link
    return {
        "grpc": controller.grpc_endpoint,
        "http": f"http://127.0.0.1:{controller.ports.http}",
        "metrics": f"http://127.0.0.1:{controller.ports.metrics}/metrics",
        "worker_grpc": worker.grpc_endpoint,
        "relay": deployment.relay.endpoint if link else None,
        "rtt_ms": link.rtt_ms if link else 0.0,
        "traces": deployment.settings.regions.traces.url or None,
        "logs": [str(controller.log), str(worker.log)],
    }


def _welcome(console: Console, deployment: Deployment, options: dict[str, Any]) -> None:
    where = endpoints(deployment)
    regions = deployment.settings.regions
    console.print(f"Both regions are up, {where['rtt_ms']:g} ms RTT between them.", style="bold")
    target, draft = model_names(options["pair"], options["target"], options["draft"])
    console.print(f"  target {target}, draft {draft}, policy {regions.policy}", soft_wrap=True)
    if options["pace_ms"]:
        console.print(f"  paced: steps last at least {options['pace_ms'].scaled(options['time_scale'])} ms")
    elif regions.target.device == regions.worker.device == "cpu":
        console.print(f"  unpaced: both regions compete for this machine's {cores()} cores, which slows a split;")
        console.print("           `--pace-ms 100,30,30` shows what it does where they do not")
    if regions.costs:
        console.print(f"  calibrated: {', '.join(regions.costs)}")
    for name in ("grpc", "http", "metrics", "traces"):
        if where[name]:
            console.print(f"  {name:8}{where[name]}")
    console.print("  logs    " + "\n          ".join(where["logs"]), soft_wrap=True)
    body: dict[str, Any] = {"text_input": "Why is the sky blue?", "stream": True, "max_tokens": 64}
    if WanspecClient(where["grpc"]).parameters().get("chat_template") == "yes":
        body["chat"] = True
    url = f"{where['http']}/v2/models/wanspec/generate_stream"
    console.print("Try, in another terminal:", style="bold")
    console.print(f"  wanspec generate --url {where['grpc']} {shlex.quote('Why is the sky blue?')}", soft_wrap=True)
    console.print(f"  curl -N {url} -d {shlex.quote(json.dumps(body))}", soft_wrap=True)
    if regions.compat:
        _welcome_clients(console, where)
    console.print("Ctrl-C stops both.", style="dim")


def _welcome_clients(console: Console, where: dict[str, Any]) -> None:
    console.print("For clients written for TensorRT-LLM:", style="bold")
    console.print(f"  target  {where['grpc']}: ensemble, preprocessing, tensorrt_llm, postprocessing", soft_wrap=True)
    console.print(f"  draft   {where['relay'] or where['worker_grpc']}: preprocessing, tensorrt_llm", soft_wrap=True)


def _tell(console: Console, line: str) -> None:
    console.print(line, style="yellow", markup=False, soft_wrap=True)


def _token_file(path: Path | None) -> str:
    if path is None:
        return ""
    read_token(str(path))
    return str(path.absolute())


def _log_file(path: Path | None) -> str:
    if path is None:
        return ""
    if not path.absolute().parent.is_dir():
        raise ConfigError("--event-log", f"the folder {path.absolute().parent} does not exist; make it first")
    return str(path.absolute())
