"""The command line of a ``tritonserver`` that serves 127.0.0.1 only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wanspec.network.tls import SERVER_FILES
from wanspec.triton.binaries import TritonBinaries

HOST = "127.0.0.1"
EXIT_TIMEOUT_S = 2
# The python backend serves BLS calls, responses and cancellation checks from one pool. With its default of 32 threads,
# 32 engine calls at once keep every response, and the link, waiting until one ends.
BACKEND_THREADS = 256
# The link's client pings every 10 s, also while no call runs. gRPC servers answer pings more frequent than this with
# GOAWAY ("too many pings"), and its default is 5 minutes.
MIN_PING_INTERVAL_MS = 5_000
MODEL_FLAGS = (
    # Completing a configuration starts a second process per model, which imports everything once more.
    "--disable-auto-complete-config",
    f"--backend-config=python,thread-pool-size={BACKEND_THREADS}",
)
PING_FLAGS = (
    "--grpc-keepalive-permit-without-calls=1",
    "--grpc-http2-max-pings-without-data=0",
    f"--grpc-http2-min-recv-ping-interval-without-data={MIN_PING_INTERVAL_MS}",
)


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one server on 127.0.0.1."""

    grpc: int
    http: int
    metrics: int


def tls_flags(folder: Path | None) -> list[str]:
    """gRPC with TLS that asks clients for certificates, by the ``SERVER_FILES`` of a folder; plaintext where None."""
    if folder is None:
        return []
    certificate, key, authority = (folder / name for name in SERVER_FILES)
    return [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificate}",
        f"--grpc-server-key={key}",
        f"--grpc-root-cert={authority}",
    ]


def server_command(
    binaries: TritonBinaries,
    *,
    repository: Path,
    backends: Path,
    ports: Ports,
    shm_prefix: str,
    extra_args: Sequence[str] = (),
) -> list[str]:
    """The argument list. Models are loaded by the API (explicit control), so that each one's outcome is known.

    ``extra_args`` come last; Triton takes the last of two equal flags.
    """
    return [
        str(binaries.executable),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        *MODEL_FLAGS,
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--grpc-address={HOST}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={HOST}",
        f"--http-port={ports.http}",
        # Loading a model holds a thread until it is loaded; probes of readiness need one then.
        "--http-thread-count=16",
        f"--metrics-address={HOST}",
        f"--metrics-port={ports.metrics}",
        "--allow-gpu-metrics=false",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        *PING_FLAGS,
        "--log-verbose=0",
        *extra_args,
    ]
