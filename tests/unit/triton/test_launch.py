"""Launch commands: whole, so that a change shows; and every flag is one of the installed Triton."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.triton.engine_pairs import engine_pair
from wanspec.errors import ConfigError
from wanspec.triton.binaries import find_binaries, server_environment
from wanspec.triton.launch import MIB, ServerSettings, container_shm_bytes, plain, shm_bytes, with_engines

SERVER = ServerSettings(Path("/srv/models"), service="wanspec-controller")
PLAIN = [
    "/opt/tritonserver/bin/tritonserver",
    "--model-repository=/srv/models",
    "--grpc-port=8001",
    "--http-port=8000",
    "--metrics-port=8002",
    "--grpc-address=0.0.0.0",
    "--http-address=0.0.0.0",
    "--metrics-address=0.0.0.0",
    "--disable-auto-complete-config",
    "--backend-config=python,thread-pool-size=256",
    "--backend-config=python,shm-region-prefix-name=wanspec-controller0_",
    "--backend-config=python,shm-default-byte-size=4194304",
    "--backend-config=python,shm-growth-byte-size=4194304",
    "--grpc-keepalive-permit-without-calls=1",
    "--grpc-http2-max-pings-without-data=0",
    "--grpc-http2-min-recv-ping-interval-without-data=5000",
    "--metrics-config=histogram_latencies=true",
    "--log-verbose=0",
]

MPI = {"OMPI_MCA_odls_base_sigkill_timeout": "40"}  # or a stop would kill requests after a second


def test_a_server_without_engines():
    assert list(plain(SERVER).argv) == PLAIN
    assert plain(SERVER).mode == "plain"


def test_two_engines_are_orchestrated():
    launch = with_engines(SERVER, engine_pair(tensor_parallel=2).engines(), (0, 1))
    assert launch.mode == "orchestrator"
    assert launch.env == MPI | {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1"}
    assert list(launch.argv) == [
        *("mpirun", "--allow-run-as-root", "-n", "1", *PLAIN, "--model-load-thread-count=1"),
        *("--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"),
        *("--cuda-memory-pool-byte-size=0:0", "--cuda-memory-pool-byte-size=1:0"),
    ]


def test_one_engine_has_a_leader_and_a_process_for_each_other_gpu():
    launch = with_engines(SERVER, engine_pair(local_draft=False, tensor_parallel=4).engines(), (0, 1, 2, 3))
    assert (launch.mode, launch.env) == ("leader", MPI)
    ranks: list[list[str]] = [[]]
    for word in launch.argv[2:]:
        if word == ":":
            ranks.append([])
        else:
            ranks[-1].append(word)
    assert ranks[0] == ["-n", "1", *PLAIN, "--model-load-thread-count=1"]
    assert len(ranks) == 4
    for number, rank in enumerate(ranks[1:], 1):
        assert rank[:3] == ["-n", "1", SERVER.executable]
        assert {"--model-control-mode=explicit", "--load-model=target"} <= set(rank)
        assert f"--backend-config=python,shm-region-prefix-name=wanspec-controller{number}_" in rank
        assert not any(word.startswith("--grpc-server-cert") for word in rank)


def test_tls_asks_clients_for_certificates_and_keeps_http_inside():
    words = plain(replace(SERVER, tls=Path("/certs"))).argv
    for word in (
        "--grpc-use-ssl-mutual=true",
        "--grpc-server-cert=/certs/server.crt",
        "--grpc-server-key=/certs/server.key",
        "--grpc-root-cert=/certs/ca.crt",
        "--grpc-address=0.0.0.0",
        "--http-address=127.0.0.1",
    ):
        assert word in words


def test_tracing():
    words = plain(replace(SERVER, trace_url="http://otel:4318/v1/traces", trace_rate=10)).argv
    assert [word.removeprefix("--trace-config=") for word in words if word.startswith("--trace-config")] == [
        "mode=opentelemetry",
        "opentelemetry,url=http://otel:4318/v1/traces",
        "opentelemetry,bsp_schedule_delay=500",
        "opentelemetry,resource=service.name=wanspec-controller",
        "opentelemetry,resource=cloud.region=scarce",
        "level=TIMESTAMPS",
        "rate=10",
        "count=-1",
    ]


def test_ports_must_differ():
    with pytest.raises(ConfigError, match="grpc_port: gRPC, HTTP and metrics need three ports"):
        plain(replace(SERVER, http_port=8001))


def test_the_shell_reads_it_as_it_is_meant():
    launch = with_engines(replace(SERVER, models=Path("/srv/my models")), engine_pair().engines(), (0,))
    words = shlex.split(launch.shell().replace("\\\n", " "))
    assert words == [f"{name}={value}" for name, value in launch.env.items()] + list(launch.argv)


def test_shared_memory_holds_the_logits_of_the_drafts():
    pair = engine_pair()
    wide = pair.model_copy(update={"target": pair.target.model_copy(update={"padded_vocab_size": 152_064})})
    assert shm_bytes(pair) == 4 * MIB
    assert shm_bytes(wide) >= 2 * 8 * 152_064 * 4
    assert shm_bytes(wide) % MIB == 0
    assert shm_bytes(wide, returned=True) >= 2 * (8 + 9) * 152_064 * 4
    server = replace(SERVER, shm_bytes=shm_bytes(wide))
    assert container_shm_bytes(server, 1, 16) > 16 * shm_bytes(wide)


def test_every_flag_is_one_of_the_installed_triton(tmp_path):
    binaries = find_binaries()
    done = subprocess.run(
        [binaries.executable, "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        env=server_environment(binaries, tmp_path, {}),
    )
    known = set(re.findall(r"^\s+(--[a-z0-9-]+)", done.stdout + done.stderr, re.MULTILINE))
    assert len(known) > 80
    full = replace(SERVER, tls=Path("/certs"), trace_url="http://otel:4318/v1/traces")
    launches = [plain(full), with_engines(full, engine_pair().engines(), (0,))]
    launches.append(with_engines(full, engine_pair(local_draft=False, tensor_parallel=2).engines(), (0, 1)))
    for launch in launches:
        used = {word.partition("=")[0] for word in launch.argv if word.startswith("--")} - {"--allow-run-as-root"}
        assert used <= known
