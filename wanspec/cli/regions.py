"""Options that describe the two regions, and what they mean: shared by ``up`` and ``demo``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from wanspec.cli.devices import check_device
from wanspec.cli.machine import cores
from wanspec.cli.progress import ModelProgress
from wanspec.core.policies import make_policy
from wanspec.engines.config import Dtype, Weights
from wanspec.errors import ConfigError
from wanspec.models import DEFAULT_PAIR, PAIRS, check_pair, resolve
from wanspec.network.ports import is_free
from wanspec.network.shape import DEFAULT_RTT_MS, LEAST_RTO_MS, LinkShape
from wanspec.telemetry.settings import TraceSettings, check_url
from wanspec.triton.regions import DEFAULT_STREAMS, MOST_STREAMS, EngineSettings

DTYPES, WEIGHTS = get_args(Dtype), get_args(Weights)
_ENGINE = EngineSettings()
MOST_RTT_MS = 10_000.0
STANDARD_PORTS: Mapping[str, int] = {"grpc": 8001, "http": 8000, "metrics": 8002}

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Pace:
    """Least duration of a step of each engine, ms; 0 for none."""

    target: float = 0.0
    draft: float = 0.0
    worker: float = 0.0

    def __bool__(self) -> bool:
        return any((self.target, self.draft, self.worker))

    def __str__(self) -> str:
        return f"{self.target:g} (target), {self.draft:g} (local draft), {self.worker:g} (worker)"

    def scaled(self, time_scale: float) -> Pace:
        """Stretched."""
        return Pace(self.target * time_scale, self.draft * time_scale, self.worker * time_scale)


class PaceType(click.ParamType[Pace]):
    """``target,draft,worker`` in ms, such as ``100,30,30``."""

    name = "T,D,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Pace:
        """Read it."""
        if isinstance(value, Pace):
            return value
        try:
            steps = [float(part) for part in str(value).split(",")]
        except ValueError:
            steps = []
        if len(steps) != 3 or not all(0 <= step < 60_000 for step in steps):
            self.fail(f"{value!r} is not three durations of 0 to 60000 ms: target,draft,worker, such as 100,30,30")
        return Pace(*steps)


rtt_option = click.option(
    "--rtt-ms", type=click.FloatRange(0, MOST_RTT_MS), default=DEFAULT_RTT_MS, show_default=True, help="Round trip."
)


def network_options(function: Function) -> Function:
    """``--rtt-ms`` and the other properties of the emulated WAN."""
    return _all([rtt_option], link_options(function))


def link_options(function: Function) -> Function:
    """Properties of the emulated WAN beside its round trip, and how it is used."""
    streams = click.option(
        "--streams",
        type=click.IntRange(1, MOST_STREAMS),
        default=DEFAULT_STREAMS,
        show_default=True,
        help="TCP connections to the worker.",
    )
    return path_options(_all([streams], function))


def path_options(function: Function) -> Function:
    """Properties of the emulated WAN beside its round trip."""
    options = [
        click.option("--jitter-ms", type=click.FloatRange(0), default=0.0, help="One-way delay varies by this much."),
        click.option("--rate-mbps", type=click.FloatRange(0, min_open=True), help="Bandwidth; default: unlimited."),
        click.option("--loss", type=click.FloatRange(0, 0.5), default=0.0, help="Share of packets lost, 0 to 0.5."),
    ]
    return _all(options, function)


def engine_options(function: Function) -> Function:
    """How the engines run."""
    dtype = click.option(
        "--dtype", type=click.Choice(DTYPES), default=_ENGINE.dtype, show_default=True, help="Of all models."
    )
    return _all([dtype], machine_options(function))


def machine_options(function: Function) -> Function:
    """How the engines run, but for ``--dtype``."""
    options = [
        click.option(
            "--weights",
            type=click.Choice(WEIGHTS),
            default=_ENGINE.weights,
            help="Of linear layers: as --dtype, or int8.",
        ),
        click.option(
            "--device",
            default=_ENGINE.device,
            show_default=True,
            help="Of target and local draft: cpu, cuda, cuda:N.",
        ),
        click.option("--worker-device", help="Of the worker's draft; default: as --device."),
        click.option("--threads", type=click.IntRange(1), help="Of each engine; default: half of the cores."),
        click.option("--time-scale", type=click.FloatRange(0.01, 1000), default=1.0, help="Stretches paces and RTT."),
    ]
    return _all(options, function)


def trace_options(function: Function) -> Function:
    """What is traced, and where that goes."""
    defaults = TraceSettings()
    options = [
        click.option("--trace-url", default="", help="OTLP/HTTP endpoint for traces, http://HOST:4318/v1/traces."),
        click.option(
            "--trace-rate",
            type=click.IntRange(0),
            default=defaults.rate,
            help="Trace one request of so many; default: those whose caller traces.",
        ),
        click.option(
            "--trace-slow-ms",
            type=click.FloatRange(0),
            default=defaults.slow_ms,
            show_default=True,
            help="Trace requests that take so long in any case; 0: do not.",
        ),
        click.option("--trace-content", is_flag=True, help="Text and tokens of requests go into traces."),
    ]
    return _all(options, function)


def traces_of(options: Mapping[str, Any]) -> TraceSettings:
    """The settings that these options give.

    Raises:
        ConfigError: the endpoint is no URL.
    """
    url = check_url("--trace-url", options["trace_url"])
    return TraceSettings(url, options["trace_rate"], options["trace_slow_ms"], options["trace_content"])


def choose_models(pair: str | None, target: str | None = None, draft: str | None = None) -> tuple[Path, Path]:
    """Return the folders of target and draft, fetched and converted if need be.

    Raises:
        click.UsageError: a pair and models were given, or one model of two.
        ModelError: a model is unknown or incomplete, or the two have different tokenizers.
    """
    names = model_names(pair, target, draft)
    with ModelProgress() as progress:
        folders = resolve(names[0], progress), resolve(names[1], progress)
    check_pair(*folders)
    return folders


def model_names(pair: str | None, target: str | None = None, draft: str | None = None) -> tuple[str, str]:
    """Return target and draft as they were named, or as their pair names them.

    Raises:
        click.UsageError: a pair and models were given, or one model of two.
    """
    if pair and (target or draft):
        raise click.UsageError("give --pair, or --target and --draft")
    if bool(target) != bool(draft):
        raise click.UsageError("--target and --draft go together; --pair names two models that fit")
    return (target, draft) if target and draft else PAIRS[pair or DEFAULT_PAIR]


def engines(
    pace: Pace,
    *,
    dtype: str = "float32",
    weights: str = "same",
    device: str = "cpu",
    worker_device: str | None = None,
    threads: int | None = None,
) -> tuple[EngineSettings, EngineSettings, EngineSettings]:
    """Return the engines of target, local draft and worker. ``threads``: half of the cores where None.

    Raises:
        ConfigError: a device that is not there.
    """
    check_device("--device", device)
    if worker_device:
        check_device("--worker-device", worker_device)
    base = EngineSettings(dtype=dtype, weights=weights, device=device, threads=threads or max(1, cores() // 2))
    return (
        replace(base, pace_ms=pace.target),
        replace(base, pace_ms=pace.draft),
        replace(base, pace_ms=pace.worker, device=worker_device or device),
    )


def link_shape(rtt_ms: float, jitter_ms: float, rate_mbps: float | None, loss: float, time_scale: float) -> LinkShape:
    """The path between the regions; ``time_scale`` stretches every time on it.

    Raises:
        ConfigError: a value is out of its limits.
    """
    if jitter_ms > rtt_ms / 2:
        raise ConfigError(
            "--jitter-ms", f"{jitter_ms:g} is above {rtt_ms / 2:g}, half of --rtt-ms: delays would be negative"
        )
    rate = None if rate_mbps is None else rate_mbps / time_scale
    return LinkShape(
        delay_ms=rtt_ms / 2 * time_scale,
        jitter_ms=jitter_ms * time_scale,
        rate_mbps=rate,
        loss=loss,
        least_rto_ms=LEAST_RTO_MS * time_scale,
    )


def check_policy(name: str, parameters: Mapping[str, float | int | str]) -> None:
    """Raise ConfigError unless a policy of this name takes these parameters."""
    try:
        make_policy(name, parameters)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise ConfigError(f"--{field.replace('policy_parameters.', 'set ')}", problem) from error


def check_ports(given: Mapping[str, int | None]) -> None:
    """Look at the ports asked for, by ``grpc``, ``http``, ``metrics``.

    Raises:
        click.UsageError: one number for two of them.
        ConfigError: one is in use.
    """
    users: dict[int, str] = {}
    for kind, port in given.items():
        if port is None:
            continue
        if port in users:
            raise click.UsageError(f"--{users[port]}-port and --{kind}-port are both {port}; give each its own")
        users[port] = kind
        if not is_free(port):
            raise ConfigError(f"--{kind}-port", f"{port} is in use; stop its user, choose another, or leave it out")


def _all(options: Sequence[Callable[[Any], Any]], function: Function) -> Function:
    for option in reversed(options):
        option(function)  # click collects options on the function itself
    return function
