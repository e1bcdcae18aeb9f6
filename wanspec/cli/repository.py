"""``wanspec render``: a region's model repository and the command that serves it, for a machine of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.progress import ModelProgress
from wanspec.cli.regions import choose_models, trace_options, traces_of
from wanspec.cli.render import make_console
from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.policies import POLICIES
from wanspec.engines.config import Dtype
from wanspec.errors import ConfigError
from wanspec.models import check_pair, resolve
from wanspec.telemetry.settings import IDLE, SCARCE
from wanspec.triton.launch import CERTIFICATES, Launch, ServerSettings, container_shm_bytes, plain
from wanspec.triton.regions import EngineSettings, RegionSettings, controller_repository, worker_repository

if TYPE_CHECKING:
    from wanspec.triton.engine_pair import EnginePair
    from wanspec.triton.repository import ModelRepository

PROFILES, REGIONS = ("cpu", "tensorrt-llm"), ("controller", "worker")
UNTESTED = "Not run on a GPU by this project."
PLAINTEXT = (
    "The link from the controller to a worker is plaintext: a worker that asks for TLS is not reached. "
    "Join the regions by a private network or a TLS tunnel."
)
TORCH_WORKER = "The worker drafts with PyTorch on CUDA: its draft engine over TensorRT-LLM is not there yet."
_REQUESTS = 64
_SERVER = ServerSettings(Path())


class GpuList(click.ParamType[tuple[int, ...]]):
    """Numbers of GPUs, such as ``0,1,2,3``."""

    name = "GPUS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is not numbers of GPUs, such as 0,1")
        return tuple(map(int, parts))


@click.command(cls=JsonErrors)
@click.option("--profile", type=click.Choice(PROFILES), required=True, help="Who serves the target.")
@click.option("--region", type=click.Choice(REGIONS), required=True, help="Which of the two.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="New folder for models/ and launch.sh.",
)
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    help="Folder or file of `wanspec build-engines`, or its plan as JSON; for tensorrt-llm.",
)
@click.option("--target", metavar="MODEL", help="Folder, name or hub id; default: the one of --engines, or of smollm2.")
@click.option("--draft", metavar="MODEL", help="The same of the draft.")
@click.option("--worker-url", "worker_urls", multiple=True, metavar="HOST:PORT", help="A worker's gRPC; repeatable.")
@click.option("--policy", type=click.Choice(list(POLICIES)), default=DEFAULT_POLICY, show_default=True)
@click.option("--auth-token-file", type=click.Path(dir_okay=False, path_type=Path), help="Shown to workers.")
@click.option("--target-gpus", type=GpuList(), default=(), help="Default: the first ones.")
@click.option("--draft-gpus", type=GpuList(), default=(), help="Of the local draft; default: the target's first.")
@click.option("--device", help="Of the worker's PyTorch; default: cuda, or cpu with --profile cpu.")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), help="The same; default: bfloat16, or float32 for cpu.")
@click.option(
    "--tritonserver",
    default=_SERVER.executable,
    show_default=True,
    help="Path of the executable.",
)
@click.option(
    "--address",
    default=_SERVER.address,
    show_default=True,
    help="Listen on; HTTP too without TLS.",
)
@click.option("--grpc-port", type=click.IntRange(1, 65535), default=_SERVER.grpc_port, show_default=True)
@click.option("--http-port", type=click.IntRange(1, 65535), default=_SERVER.http_port, show_default=True)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    default=_SERVER.metrics_port,
    show_default=True,
)
@click.option(
    "--tls",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder with {', '.join(CERTIFICATES)}: gRPC asks clients for certificates.",
)
@trace_options
@JSON_OPTION
def render(**options: Any) -> None:
    """Write a region's model repository and its launch command, for servers that you start yourself.

    Profile tensorrt-llm serves engines of `wanspec build-engines` by Triton's C++ backend; not run on a GPU by this
    project. Profile cpu serves PyTorch. Paths are written as given: run it where they are as the server sees them.

    \b
    Examples:
      wanspec render --profile tensorrt-llm --region worker --engines /engines --output ./w
      wanspec render --profile tensorrt-llm --region controller --engines /engines --worker-url w:8001 --output ./c
      wanspec render --profile cpu --region controller --worker-url 10.0.0.2:8001 --output ./c
      wanspec render --profile cpu --region controller --tls /certs --output ./c --json
    """
    rendered = _rendered(options)
    output: Path = options["output"].absolute()
    if output.exists() and any(output.iterdir()):
        raise ConfigError("output", f"{output} is not empty; render into a new folder")
    rendered.repository.render(output / "models")
    script = output / "launch.sh"
    script.write_text(f"#!/bin/sh\n# Written by `wanspec render`.\nexec env \\\n  {rendered.launch.shell()}\n")
    script.chmod(0o755)
    _show(rendered, output, options["as_json"])


@dataclass(frozen=True, slots=True)
class Rendered:
    """A region. ``load_order``: of its engines, where it matters; ``shm_size``: of its container, bytes."""

    repository: ModelRepository
    launch: Launch
    load_order: tuple[str, ...]
    shm_size: int
    notes: tuple[str, ...]


def _rendered(options: dict[str, Any]) -> Rendered:
    pair = _pair(options)
    settings, server = _regions(options, pair), _server(options)
    urls = ",".join(options["worker_urls"])
    notes = [PLAINTEXT] if options["tls"] or options["region"] == "worker" else []
    if options["region"] == "worker":
        repository = worker_repository(settings)
        notes += [TORCH_WORKER, UNTESTED] if pair else []
        return Rendered(repository, plain(server), (), container_shm_bytes(server, 1, 0), tuple(notes))
    if pair is None:
        repository = controller_repository(settings, urls)
        size = container_shm_bytes(server, len(repository.values), _REQUESTS)
        return Rendered(repository, plain(server), (), size, tuple(notes))
    return _with_engines(options, pair, settings, server, urls, notes)


def _with_engines(
    options: dict[str, Any],
    pair: EnginePair,
    settings: RegionSettings,
    server: ServerSettings,
    urls: str,
    notes: list[str],
) -> Rendered:
    from wanspec.triton.engine_repository import Placement, engine_repository, gpus_of
    from wanspec.triton.launch import shm_bytes, with_engines

    placement = Placement(options["target_gpus"], options["draft_gpus"])
    server = replace(server, shm_bytes=shm_bytes(pair))
    return Rendered(
        engine_repository(settings, pair, urls, placement),
        with_engines(server, pair, gpus_of(pair, placement)),
        pair.order(),
        container_shm_bytes(server, 1, pair.target.max_batch_size),
        (*notes, UNTESTED),
    )


def _pair(options: dict[str, Any]) -> EnginePair | None:
    if (options["profile"] == "tensorrt-llm") != (options["engines"] is not None):
        raise click.UsageError("--engines goes with --profile tensorrt-llm, which needs it")
    if options["engines"] is None:
        return None
    from wanspec.triton.engine_pair import EnginePair  # with pydantic, which nobody else need wait for

    return EnginePair.read(options["engines"])


def _regions(options: dict[str, Any], pair: EnginePair | None) -> RegionSettings:
    if pair is None:
        target, draft = choose_models(None, options["target"], options["draft"])
    else:
        with ModelProgress() as progress:
            target = resolve(options["target"] or pair.target.model_dir, progress)
            draft = resolve(options["draft"] or pair.draft.model_dir, progress)
        check_pair(target, draft)
    fast = pair is not None
    engine = EngineSettings(
        device=options["device"] or ("cuda" if fast else "cpu"),
        dtype=options["dtype"] or ("bfloat16" if fast else "float32"),
    )
    token = options["auth_token_file"]
    return RegionSettings(
        target,
        draft,
        *(engine,) * 3,
        policy=options["policy"],
        auth_token_file=str(token.absolute()) if token else "",
        traces=traces_of(options),
    )


def _server(options: dict[str, Any]) -> ServerSettings:
    tls = options["tls"]
    missing = [name for name in CERTIFICATES if tls and not (tls / name).is_file()]
    if missing:
        raise ConfigError("tls", f"{tls} lacks {', '.join(missing)}")
    traces, worker = traces_of(options), options["region"] == "worker"
    return ServerSettings(
        options["output"].absolute() / "models",
        options["tritonserver"],
        f"wanspec-{options['region']}",
        options["grpc_port"],
        options["http_port"],
        options["metrics_port"],
        options["address"],
        tls.absolute() if tls else None,
        traces.url,
        0 if worker else traces.rate,  # every frame of a controller is a request there: none is traced by itself
        region=IDLE if worker else SCARCE,
    )


def _show(rendered: Rendered, output: Path, as_json: bool) -> None:
    models = sorted(rendered.repository.values)
    shm = f"{-(-rendered.shm_size // (1 << 20))}m"
    if as_json:
        plain_values = {
            "models": str(output / "models"),
            "names": models,
            "launch": {"env": dict(rendered.launch.env), "argv": list(rendered.launch.argv)},
            "mode": rendered.launch.mode,
            "load_order": list(rendered.load_order),
            "shm_size": shm,
            "notes": list(rendered.notes),
        }
        click.echo(json.dumps(plain_values, indent=2))
        return
    console = make_console()
    console.print(
        f"Models {', '.join(models)} in {output / 'models'}; {output / 'launch.sh'} serves them:", soft_wrap=True
    )
    click.echo(rendered.launch.shell())
    console.print(f"In a container: --shm-size={shm}", soft_wrap=True)
    for note in rendered.notes:
        console.print(f"note: {note}", soft_wrap=True, style="yellow")
