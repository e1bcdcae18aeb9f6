"""The command line of a ``tritonserver`` in production: TLS, tracing, metrics; with TensorRT-LLM by ``mpirun``.

Not run on a GPU by this project. What TensorRT-LLM's engines need is as its own launch_triton_server.py has it
(TENSORRT_LLM.md, section 7); that script passes no flags of TLS and tracing on.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wanspec.errors import ConfigError
from wanspec.telemetry.settings import SCARCE
from wanspec.triton.command import MODEL_FLAGS, PING_FLAGS
from wanspec.triton.engine_pair import EnginePair
from wanspec.triton.traces import trace_flags

MIB = 1 << 20
CERTIFICATES = ("server.crt", "server.key", "ca.crt")
"""Files in the folder of certificates: of the server, its key, and of the authority that clients' are signed by."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one server's command line says.

    Attributes:
        models: the model repository.
        executable: tritonserver.
        service: name in traces, and prefix of shared memory.
        grpc_port, http_port, metrics_port: where it listens.
        address: of gRPC and metrics, and of HTTP without TLS; with TLS, HTTP, which has none, is on 127.0.0.1.
        tls: folder with ``CERTIFICATES``, for gRPC with client certificates; None for plaintext.
        trace_url: OTLP/HTTP endpoint for traces; empty for none.
        trace_rate: one of so many requests is traced; 0: those only whose caller traces.
        shm_bytes: shared memory of a python model at its start, and how much it grows by.
        region: name in traces of where it is.
    """

    models: Path
    executable: str = "/opt/tritonserver/bin/tritonserver"
    service: str = "wanspec"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    address: str = "0.0.0.0"
    tls: Path | None = None
    trace_url: str = ""
    trace_rate: int = 0
    shm_bytes: int = 4 * MIB
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
    return Launch((settings.executable, *_flags(settings, 0)))


def with_engines(settings: ServerSettings, pair: EnginePair, gpus: Sequence[int]) -> Launch:
    """A server with the engines of a pair: of the target, and of the draft where it is local.

    Args:
        settings: of the server.
        pair: the engines.
        gpus: all that they use.

    Raises:
        ConfigError: the settings cannot work.
    """
    mpirun = ("mpirun", "--allow-run-as-root")
    # One after the other, since each engine takes a share of the memory that it finds free.
    first = ("-n", "1", settings.executable, *_flags(settings, 0), "--model-load-thread-count=1")
    if pair.local_draft:
        pools = [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in gpus]
        spawning = ("--pinned-memory-pool-byte-size=0", "--enable-peer-access=false", *pools)
        env = {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1"}
        return Launch((*mpirun, *first, *spawning), env, "orchestrator")
    others = [word for rank in range(1, pair.target.tensor_parallel) for word in _rank(settings, rank)]
    return Launch((*mpirun, *first, *others), {}, "leader")


def shm_bytes(pair: EnginePair) -> int:
    """Shared memory that one verification above temperature 0 takes: its one-hot draft logits, FP32; whole MiB."""
    logits = pair.target.max_draft_len * pair.target.padded_vocab_size * 4
    return max(4 * MIB, -(-2 * logits // MIB) * MIB)


def container_shm_bytes(settings: ServerSettings, models: int, requests: int) -> int:
    """What ``docker run --shm-size`` should be: every python model's own, and a request's share for all at once."""
    return (models * 2 + requests) * settings.shm_bytes + 256 * MIB


def _flags(settings: ServerSettings, rank: int) -> list[str]:
    return [
        f"--model-repository={settings.models}",
        *_ports(settings),
        f"--grpc-address={settings.address}",
        f"--http-address={'127.0.0.1' if settings.tls else settings.address}",
        f"--metrics-address={settings.address}",
        *_python(settings, rank),
        *PING_FLAGS,
        *_tls(settings.tls),
        *trace_flags(settings.trace_url, settings.trace_rate, settings.service, settings.region),
        "--metrics-config=histogram_latencies=true",
        "--log-verbose=0",
    ]


def _rank(settings: ServerSettings, rank: int) -> list[str]:
    """A further process of the one engine, which serves nothing itself."""
    return [
        *(":", "-n", "1", settings.executable),
        f"--model-repository={settings.models}",
        "--model-control-mode=explicit",
        "--load-model=target",
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


def _tls(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    certificate, key, authority = (folder / name for name in CERTIFICATES)
    return [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificate}",
        f"--grpc-server-key={key}",
        f"--grpc-root-cert={authority}",
    ]
