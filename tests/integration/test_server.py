"""``TritonServer`` with a real tritonserver: readiness, requests, failures, kill and restart."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from tests.integration.echo_models import write_model
from tests.integration.quick import QuickServer
from wanspec.errors import ConfigError, ServerError
from wanspec.network.ports import reserve_ports
from wanspec.triton.repository import ModelRepository
from wanspec.triton.server import TritonServer
from wanspec.triton.watchdog import SHARED_MEMORY, children_of


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models", "echo")


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    with QuickServer(repository, name="test", log_dir=tmp_path / "logs") as running:
        yield running


def echo(server: TritonServer, model: str = "echo") -> list[int]:
    with grpcclient.InferenceServerClient(server.grpc_endpoint) as client:
        tensor = grpcclient.InferInput("x", [3], "INT32")
        tensor.set_data_from_numpy(np.array([1, 2, 3], np.int32))
        return client.infer(model, [tensor]).as_numpy("x").tolist()


def group(pgid: int) -> list[int]:
    """Live processes of a group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pgid and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def test_serves_and_stops_without_leftovers(server: TritonServer) -> None:
    told = []
    server.wait_ready(60, lambda state, seconds, models: told.append((state, tuple(models))))
    assert echo(server) == [1, 2, 3]
    assert told[0] == ("starting", ("echo",))
    assert told[-1] == ("ready", ())
    pid, folder, prefix, log = server.pid, server.folder, server.shm_prefix, server.log
    assert pid is not None
    assert len(group(pid)) == 2
    assert list(SHARED_MEMORY.glob(f"{prefix}*"))
    server.stop(5)
    assert not group(pid)
    assert not folder.exists()
    assert not list(SHARED_MEMORY.glob(f"{prefix}*"))
    assert "successfully loaded 'echo'" in log.read_text()
    server.stop()


def test_models_run_on_this_python(tmp_path: Path) -> None:
    code = (
        'open(os.environ["REPORT"], "w").write("\\n".join([sys.prefix, sys.version, numpy.__file__, wanspec.__file__]))'
    )
    report = tmp_path / "report"
    repository = write_model(tmp_path / "models", "echo", code)
    with QuickServer(repository, env={"REPORT": str(report)}, log_dir=tmp_path) as server:
        server.wait_ready(60)
    import sys

    import wanspec

    assert report.read_text() == "\n".join([sys.prefix, sys.version, np.__file__, wanspec.__file__])


def test_two_servers_side_by_side(repository: Path, tmp_path: Path) -> None:
    with (
        QuickServer(repository, name="a", log_dir=tmp_path) as first,
        QuickServer(repository, name="b", log_dir=tmp_path) as second,
    ):
        first.wait_ready(60)
        second.wait_ready(60)
        assert echo(first) == echo(second) == [1, 2, 3]
        first.stop()
        assert echo(second) == [1, 2, 3]


def test_kill_and_restart_on_the_same_ports(server: TritonServer) -> None:
    server.wait_ready(60)
    pid, ports = server.pid, server.ports
    assert pid is not None
    server.kill()
    assert not server.running
    assert not group(pid)
    assert not list(SHARED_MEMORY.glob(f"{server.shm_prefix}*"))
    server.restart()
    server.wait_ready(60)
    assert server.ports == ports
    assert server.pid != pid
    assert echo(server) == [1, 2, 3]


def test_restart_while_running(server: TritonServer) -> None:
    server.wait_ready(60)
    pid = server.pid
    server.restart(timeout_s=0)
    server.wait_ready(60)
    assert server.pid != pid
    assert echo(server) == [1, 2, 3]


def test_renders_a_model_repository(tmp_path: Path) -> None:
    source = write_model(tmp_path / "templates", "echo")
    config = source / "echo" / "config.pbtxt"
    config.write_text(config.read_text() + 'parameters { key: "note" value { string_value: "${note}" } }\n')
    write_model(source, "left-out")
    repository = ModelRepository(source, {"echo": {"note": 'a "quoted" path\\'}})
    with QuickServer(repository, log_dir=tmp_path) as server:
        server.wait_ready(60)
        assert server.models == ["echo"]
        with grpcclient.InferenceServerClient(server.grpc_endpoint) as client:
            assert client.get_model_config("echo").config.parameters["note"].string_value == 'a "quoted" path\\'


def test_stages_load_one_after_the_other(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "late", 'open(os.environ["FIRST"]).close()')
    write_model(repository, "early", 'time.sleep(0.3); open(os.environ["FIRST"], "w").close()')
    env = {"FIRST": str(tmp_path / "first")}
    with QuickServer(repository, stages=[["early"], ["late"]], env=env, log_dir=tmp_path) as server:
        pending = []
        server.wait_ready(60, lambda state, seconds, models: pending.append(tuple(models)))
        assert ("late",) in pending
        assert server.models == ["early", "late"]


def test_error_of_a_model_is_shown_with_the_log(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "broken", 'raise ValueError("no weights in /nowhere")')
    write_model(repository, "echo")
    with QuickServer(repository, name="test", log_dir=tmp_path) as server:
        with pytest.raises(ServerError, match="no weights in /nowhere") as caught:
            server.wait_ready(60)
        message = str(caught.value)
        assert message.startswith("server test: model broken does not load")
        assert message.endswith(f"log: {server.log}")
        assert len(message.splitlines()) < 12


def test_process_that_dies_while_loading(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "slow", "time.sleep(60)")
    with QuickServer(repository, name="test", log_dir=tmp_path) as server:
        killer = threading.Timer(1.0, lambda: os.kill(server.pid or 0, 9))
        killer.start()
        begin = time.monotonic()
        with pytest.raises(ServerError, match="ended with exit code -9"):
            server.wait_ready(30)
        assert time.monotonic() - begin < 5
        killer.join()


def test_deadline_names_the_missing_models(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "slow", "time.sleep(60)")
    write_model(repository, "echo")
    with QuickServer(repository, name="test", log_dir=tmp_path) as server:
        # Triton may load them one after the other, this one first.
        with pytest.raises(ServerError, match=r"not ready after 3 s \(loading; missing: (echo, )?slow\)"):
            server.wait_ready(3)
        begin = time.monotonic()
        server.stop(1)
        assert time.monotonic() - begin < 4


def test_bad_arguments_of_tritonserver_are_shown(repository: Path, tmp_path: Path) -> None:
    with (
        QuickServer(repository, extra_args=["--no-such-flag"], log_dir=tmp_path) as server,
        pytest.raises(ServerError, match="no-such-flag"),
    ):
        server.wait_ready(20)


def test_given_port_in_use_is_refused_at_once(repository: Path, tmp_path: Path) -> None:
    with reserve_ports(1) as ports, socket.create_server(("127.0.0.1", ports[0])):
        server = QuickServer(repository, grpc_port=ports[0], log_dir=tmp_path)
        with pytest.raises(ServerError, match=f"grpc_port: {ports[0]} is in use"):
            server.start()
        assert not server.running


def test_chosen_port_taken_in_the_meantime_is_replaced(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TritonServer._launch
    thieves = []

    def launch_after_a_thief(server: TritonServer, process: object) -> None:
        if not thieves:
            thieves.append(socket.create_server(("127.0.0.1", server.ports.grpc)))
        original(server, process)  # type: ignore[arg-type]

    monkeypatch.setattr(TritonServer, "_launch", launch_after_a_thief)
    try:
        with QuickServer(repository, log_dir=tmp_path) as server:
            taken = server.ports
            server.wait_ready(60)
            assert server.ports != taken
            assert echo(server) == [1, 2, 3]
    finally:
        thieves[0].close()


def test_unknown_model_in_stages(repository: Path, tmp_path: Path) -> None:
    before = set(children_of(os.getpid()))
    with pytest.raises(ConfigError, match=r"no model 'target'.*it has: echo"):
        QuickServer(repository, stages=[["target"]], log_dir=tmp_path).start()
    assert set(children_of(os.getpid())) <= before


@pytest.mark.acceptance
def test_idle_client_may_ping_every_six_seconds(server: TritonServer) -> None:
    """gRPC's default limit is 5 minutes: at the third early ping it would close the connection (4 pings here)."""
    server.wait_ready(60)
    options = [("grpc.keepalive_time_ms", 6_000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0)]  # fmt: skip
    states = []
    with grpc.insecure_channel(server.grpc_endpoint, options=options) as channel:
        grpc.channel_ready_future(channel).result(10)
        channel.subscribe(states.append)
        time.sleep(25)
    assert states == [grpc.ChannelConnectivity.READY]
