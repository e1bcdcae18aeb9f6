"""``wanspec render``: a region's model repository and the command that serves it, for a machine of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.endpoint import EndpointType
from wanspec.cli.progress import ModelProgress
from wanspec.cli.regions import choose_models, model_names, trace_options, traces_of
from wanspec.cli.render import make_console
from wanspec.cli.worker_region import DRAFT_ENGINES, check_region, worker_settings
from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.policies import POLICIES
from wanspec.engines.config import Dtype
from wanspec.errors import ConfigError
from wanspec.models import check_pair, resolve
from wanspec.network.tls import CLIENT_FILES, SERVER_FILES, check_folder
from wanspec.telemetry.settings import IDLE, SCARCE
from wanspec.triton.launch import Launch, ServerSettings, container_shm_bytes, installed_here, plain
from wanspec.triton.regions import EngineSettings, RegionSettings, controller_repository, worker_repository
from wanspec.triton.worker_draft import CHAIN_MODEL

if TYPE_CHECKING:
    from wanspec.triton.engine_pair import EnginePair
    from wanspec.triton.repository import ModelRepository

PROFILES, REGIONS = ("cpu", "tensorrt-llm"), ("controller", "worker")
UNTESTED = "Not run on a GPU by this project."
PLAINTEXT = "The link is plaintext: --tls of the worker and --worker-tls of the controller make it mutual TLS."
EXPERIMENT = "Sampling by returned logits is an experiment: docs/sampling.md has its cost."
SAMPLING = ("coupled", "tensorrt_llm", "logits")
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
@click.option("--worker-url", "worker_urls", multiple=True, type=EndpointType(), help="A worker's gRPC; repeatable.")
@click.option(
    "--worker-tls",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder with {', '.join(CLIENT_FILES)}: mutual TLS to workers.",
)
@click.option("--policy", type=click.Choice(list(POLICIES)), default=DEFAULT_POLICY, show_default=True)
@click.option("--auth-token-file", type=click.Path(dir_okay=False, path_type=Path), help="Shown to workers.")
@click.option("--target-gpus", type=GpuList(), default=(), help="Default: the first ones.")
@click.option("--draft-gpus", type=GpuList(), default=(), help="Of the draft's engine; default: the target's first.")
@click.option("--sampling", type=click.Choice(SAMPLING), help="Above temperature 0; logits is an experiment.")
@click.option(
    "--draft-engine",
    type=click.Choice(list(DRAFT_ENGINES)),
    help="Of the worker: PyTorch (default), TensorRT-LLM in its process, or a chain of a model beside it.",
)
@click.option("--device", help="Of PyTorch: cpu, cuda, cuda:N; default: cuda, or cpu with --profile cpu.")
@click.option("--dtype", type=click.Choice(get_args(Dtype)), help="The same; default: bfloat16, or float32 for cpu.")
@click.option(
    "--tritonserver",
    metavar="FILE",
    help=f"The executable; default: {_SERVER.executable}, or with --profile cpu the one that this Python has.",
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
    help=f"Folder with {', '.join(SERVER_FILES)}: gRPC asks clients for certificates.",
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
      wanspec render --profile tensorrt-llm --region worker --draft-engine tensorrt-llm --engines /engines --output ./w
      wanspec render --profile tensorrt-llm --region controller --engines /engines --worker-url w:8001 --output ./c
      wanspec render --profile cpu --region controller --worker-url 10.0.0.2:8001 --output ./c
      wanspec render --profile cpu --region worker --tls /certs --output ./w
      wanspec render --profile cpu --region controller --worker-url w:8001 --worker-tls /certs --output ./c --json
    """
    output: Path = options["output"].absolute()
    if output.exists() and any(output.iterdir()):
        raise ConfigError("output", f"{output} is not empty; render into a new folder")
    rendered = _rendered(options)
    if options["profile"] == "cpu" and options["tritonserver"] is None:
        rendered = replace(rendered, launch=plain(installed_here(_server(options), output / "triton")))
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
    check_region(options)
    pair = _pair(options)
    settings, server = _regions(options, pair), _server(options)
    urls = ",".join(options["worker_urls"])
    secured = options["tls"] if options["region"] == "worker" else options["worker_tls"] or not urls
    notes = [] if secured else [PLAINTEXT]
    notes += [EXPERIMENT] if settings.sampling == "logits" else []
    if options["region"] == "worker":
        return _worker(options, pair, settings, server, notes)
    if pair is None:
        repository = controller_repository(settings, urls)
        size = container_shm_bytes(server, len(repository.values), _REQUESTS)
        return Rendered(repository, plain(server), (), size, tuple(notes))
    return _with_engines(options, pair, settings, server, urls, notes)


def _worker(
    options: dict[str, Any], pair: EnginePair | None, settings: RegionSettings, server: ServerSettings, notes: list[str]
) -> Rendered:
    notes += [UNTESTED] if pair else []
    if pair is None or settings.worker_draft.engine != "triton":
        repository = worker_repository(settings)
        return Rendered(repository, plain(server), (), container_shm_bytes(server, 1, 0), tuple(notes))
    from wanspec.triton.engine_repository import Placement, worker_engine_repository
    from wanspec.triton.launch import with_engines

    placement = Placement((), options["draft_gpus"])
    return Rendered(
        worker_engine_repository(settings, pair, placement),
        with_engines(server, {CHAIN_MODEL: pair.draft}, placement.of("draft", pair.draft)),
        (CHAIN_MODEL,),
        container_shm_bytes(server, 1, pair.draft.max_batch_size),
        tuple(notes),
    )


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
    server = replace(server, shm_bytes=shm_bytes(pair, returned=settings.sampling == "logits"))
    return Rendered(
        engine_repository(settings, pair, urls, placement),
        with_engines(server, pair.engines(), gpus_of(pair, placement)),
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


def _models(options: dict[str, Any], pair: EnginePair | None) -> tuple[Path, Path]:
    """Folders of target and draft; a worker's are the draft's both, since it needs nothing of the target."""
    worker = options["region"] == "worker"
    if pair is None and not worker:
        return choose_models(None, options["target"], options["draft"])
    default = (pair.target.model_dir, pair.draft.model_dir) if pair else model_names(None)
    with ModelProgress() as progress:
        draft = resolve(options["draft"] or default[1], progress)
        target = draft if worker else resolve(options["target"] or default[0], progress)
    check_pair(target, draft)
    return target, draft


def _regions(options: dict[str, Any], pair: EnginePair | None) -> RegionSettings:
    target, draft = _models(options, pair)
    fast = pair is not None
    engine = EngineSettings(
        device=options["device"] or ("cuda" if fast else "cpu"),
        dtype=options["dtype"] or ("bfloat16" if fast else "float32"),
    )
    token, tls = options["auth_token_file"], options["worker_tls"]
    if tls:
        check_folder(tls, CLIENT_FILES, "worker_tls")
    settings = RegionSettings(
        target,
        draft,
        *(engine,) * 3,
        policy=options["policy"],
        sampling=options["sampling"] or ("tensorrt_llm" if fast else "coupled"),
        auth_token_file=str(token.absolute()) if token else "",
        worker_tls=str(tls.absolute()) if tls else "",
        traces=traces_of(options),
    )
    return worker_settings(settings, options["draft_engine"], pair) if options["region"] == "worker" else settings


def _server(options: dict[str, Any]) -> ServerSettings:
    tls = options["tls"]
    if tls:
        check_folder(tls, SERVER_FILES, "tls")
    traces, worker = traces_of(options), options["region"] == "worker"
    return ServerSettings(
        options["output"].absolute() / "models",
        options["tritonserver"] or _SERVER.executable,
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
