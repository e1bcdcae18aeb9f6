"""The command line of a ``tritonserver`` in production: TLS, tracing, metrics; with TensorRT-LLM by ``mpirun``.

Not run on a GPU by this project. What TensorRT-LLM's engines need is as its own launch_triton_server.py has it
(TensorRT-LLM's triton_backend/scripts); that script passes no flags of TLS and tracing on.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanspec.errors import ConfigError
from wanspec.telemetry.settings import SCARCE
from wanspec.triton.binaries import INSTALLED, find_binaries, prepare_backends, server_environment
from wanspec.triton.command import MODEL_FLAGS, PING_FLAGS, tls_flags
from wanspec.triton.engine_pair import Engine, EnginePair
from wanspec.triton.traces import trace_flags

MIB = 1 << 20
_MPI = {"OMPI_MCA_odls_base_sigkill_timeout": "40"}
"""Seconds that Open MPI gives servers to end before it kills them; by default one."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one server's command line says.

    Attributes:
        models: the model repository.
        executable: tritonserver.
        backends: folder of its backends; where the executable expects them if None.
        env: that the executable needs.
        service: name in traces, and prefix of shared memory.
        grpc_port, http_port, metrics_port: where it listens.
        address: of gRPC and metrics, and of HTTP without TLS; with TLS, HTTP, which has none, is on 127.0.0.1.
        tls: folder with ``SERVER_FILES``, for gRPC with client certificates; None for plaintext.
        trace_url: OTLP/HTTP endpoint for traces; empty for none.
        trace_rate: one of so many requests is traced; 0: those only whose caller traces.
        shm_bytes: shared memory of a python model at its start, and how much it grows by.
        region: name in traces of where it is.
    """

    models: Path
    executable: str = str(INSTALLED / "bin" / "tritonserver")
    service: str = "wanspec"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    address: str = "0.0.0.0"
    tls: Path | None = None
    trace_url: str = ""
    trace_rate: int = 0
    shm_bytes: int = 4 * MIB
    backends: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    region: str = SCARCE


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server.

    Attributes:
        argv: the command.
        env: to set for it.
        mode: ``plain``, ``leader`` (a process on each GPU of the one engine), or ``orchestrator`` (the server starts
            the processes of its several engines).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    mode: str = "plain"

    def shell(self) -> str:
        """As it is typed, a flag a line."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()] + [
            shlex.quote(w) for w in self.argv
        ]
        return " \\\n  ".join(words)


def plain(settings: ServerSettings) -> Launch:
    """A server without TensorRT-LLM.

    Raises:
        ConfigError: the settings cannot work.
    """
    return Launch((settings.executable, *_flags(settings, 0)), settings.env)


def installed_here(settings: ServerSettings, folder: Path) -> ServerSettings:
    """Serve by the Triton that this Python has, with what it needs made in ``folder``, which must stay.

    Raises:
        ServerError: there is none, or it is not usable with this Python.
    """
    binaries = find_binaries()
    backends = prepare_backends(binaries, folder)
    environment = server_environment(binaries, folder, {})
    env = {name: environment[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH")}
    # The interpreter in the python backend's processes finds its packages by the first python3 of PATH.
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.defpath))
    return replace(settings, executable=str(binaries.executable), backends=backends, env=env)


def with_engines(settings: ServerSettings, engines: Mapping[str, Engine], gpus: Sequence[int]) -> Launch:
    """A server with engines of TensorRT-LLM.

    Args:
        settings: of the server.
        engines: by the names of their models.
        gpus: all that they use.

    Raises:
        ConfigError: the settings cannot work.
    """
    mpirun = ("mpirun", "--allow-run-as-root")
    # One after the other, since each engine takes a share of the memory that it finds free.
    first = ("-n", "1", settings.executable, *_flags(settings, 0), "--model-load-thread-count=1")
    if len(engines) > 1:
        pools = [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in gpus]
        spawning = ("--pinned-memory-pool-byte-size=0", "--enable-peer-access=false", *pools)
        env = {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1", **_MPI}
        return Launch((*mpirun, *first, *spawning), env, "orchestrator")
    ((model, engine),) = engines.items()
    others = [word for rank in range(1, engine.tensor_parallel) for word in _rank(settings, rank, model)]
    return Launch((*mpirun, *first, *others), dict(_MPI), "leader")


def shm_bytes(pair: EnginePair, *, returned: bool = False) -> int:
    """Shared memory that one verification above temperature 0 takes: its one-hot draft logits, FP32; whole MiB.

    ``returned``: and the logits of every place, which the target returns.
    """
    drafts, row = pair.target.max_draft_len, pair.target.padded_vocab_size * 4
    logits = (2 * drafts + 1 if returned else drafts) * row
    return max(4 * MIB, -(-2 * logits // MIB) * MIB)


def container_shm_bytes(settings: ServerSettings, models: int, requests: int) -> int:
    """What ``docker run --shm-size`` should be: every python model's own, and a request's share for all at once."""
    return (models * 2 + requests) * settings.shm_bytes + 256 * MIB


def _flags(settings: ServerSettings, rank: int) -> list[str]:
    return [
        f"--model-repository={settings.models}",
        *([f"--backend-directory={settings.backends}"] if settings.backends is not None else []),
        *_ports(settings),
        f"--grpc-address={settings.address}",
        f"--http-address={'127.0.0.1' if settings.tls else settings.address}",
        f"--metrics-address={settings.address}",
        *_python(settings, rank),
        *PING_FLAGS,
        *tls_flags(settings.tls),
        *trace_flags(settings.trace_url, settings.trace_rate, settings.service, settings.region),
        "--metrics-config=histogram_latencies=true",
        "--log-verbose=0",
    ]


def _rank(settings: ServerSettings, rank: int, model: str) -> list[str]:
    """A further process of the one engine, which serves nothing itself."""
    return [
        *(":", "-n", "1", settings.executable),
        f"--model-repository={settings.models}",
        "--model-control-mode=explicit",
        f"--load-model={model}",
        *_ports(settings),
        *_python(settings, rank),
    ]


def _ports(settings: ServerSettings) -> list[str]:
    ports = {"grpc": settings.grpc_port, "http": settings.http_port, "metrics": settings.metrics_port}
    if len(set(ports.values())) < len(ports):
        raise ConfigError("grpc_port", f"gRPC, HTTP and metrics need three ports, not {sorted(ports.values())}")
    return [f"--{kind}-port={port}" for kind, port in ports.items()]


def _python(settings: ServerSettings, rank: int) -> list[str]:
    return [
        *MODEL_FLAGS,
        f"--backend-config=python,shm-region-prefix-name={settings.service}{rank}_",
        f"--backend-config=python,shm-default-byte-size={settings.shm_bytes}",
        f"--backend-config=python,shm-growth-byte-size={settings.shm_bytes}",
    ]
