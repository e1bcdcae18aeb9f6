"""Whatever ends the owner of a server, nothing of the server is left 5 s later: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.echo_models import write_model
from wanspec.triton.process import ServerProcess
from wanspec.triton.server import TritonServer
from wanspec.triton.watchdog import SHARED_MEMORY, children_of

LIMIT_S = 5.0
OWNER = Path(__file__).with_name("server_owner.py")
# The model's process starts one that leaves the process group, as a detached helper would.
DETACH = "import subprocess; subprocess.Popen(['sleep', '97'], start_new_session=True)"


class Owned:
    """A server in another process, and what to look for after its end."""

    def __init__(self, ending: str, folder: Path) -> None:
        repository = write_model(folder / "models", "echo", DETACH)
        arguments = [sys.executable, str(OWNER), ending, str(repository), str(folder)]
        self.owner = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert self.owner.stdout is not None
        self.facts: dict[str, Any] = json.loads(self.owner.stdout.readline())
        self.watchdogs = [pid for pid in children_of(self.owner.pid) if "watchdog" in command_of(pid)]
        self.processes = self.watchdogs + descendants(self.facts["pid"])

    def leftovers(self) -> list[str]:
        found = [f"process {pid}: {command_of(pid)}" for pid in self.processes if alive(pid)]
        found += map(str, SHARED_MEMORY.glob(self.facts["prefix"] + "*"))
        return found + [folder for folder in [self.facts["folder"]] if Path(folder).exists()]

    def assert_gone(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.leftovers() == []

    def close(self) -> None:
        if self.owner.poll() is None:
            self.owner.kill()
        self.owner.wait(10)
        assert self.owner.stdout is not None
        self.owner.stdout.close()


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    return [pid, *(below for child in children_of(pid) for below in descendants(child))]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Any]:
    made: list[Owned] = []

    def make(ending: str) -> Owned:
        made.append(Owned(ending, tmp_path))
        return made[-1]

    yield make
    for owned in made:
        owned.close()


@pytest.mark.parametrize(
    ("ending", "number"),
    [
        ("waits", signal.SIGKILL),
        ("waits", signal.SIGTERM),
        ("waits", signal.SIGINT),
        ("forks", signal.SIGKILL),
        ("forgets", None),
        ("raises", None),
    ],
)
def test_nothing_is_left(own: Any, ending: str, number: int | None) -> None:
    owned = own(ending)
    if number is not None:
        # Watchdog, tritonserver, the model's stub, and the detached process of the model.
        assert len([pid for pid in owned.processes if alive(pid)]) == 4
        assert owned.facts["folder"] in owned.leftovers()
        os.kill(owned.owner.pid, number)
        owned.owner.wait(LIMIT_S)
    owned.assert_gone()


def test_ctrl_c_in_the_terminal_reaches_only_the_owner(own: Any) -> None:
    owned = own("waits")
    os.killpg(owned.owner.pid, signal.SIGINT)
    owned.owner.wait(LIMIT_S)
    owned.assert_gone()


def test_killed_tritonserver_takes_its_models_along(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "echo", DETACH)
    with TritonServer(repository, log_dir=tmp_path) as server:
        server.wait_ready(60)
        assert server.pid is not None
        processes = descendants(server.pid)
        assert len(processes) == 3
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + LIMIT_S
        while (server.running or any(map(alive, processes))) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not server.running
        assert not [pid for pid in processes if alive(pid)]
        assert not list(SHARED_MEMORY.glob(f"{server.shm_prefix}*"))


def test_killed_watchdog_takes_the_server_along(tmp_path: Path) -> None:
    repository = write_model(tmp_path / "models", "echo")
    others = set(children_of(os.getpid()))
    with TritonServer(repository, log_dir=tmp_path) as server:
        server.wait_ready(60)
        pid, folder, prefix = server.pid, server.folder, server.shm_prefix
        assert pid is not None
        processes = descendants(pid)
        mine = set(children_of(os.getpid())) - others
        (watchdog,) = [child for child in mine if "watchdog" in command_of(child)]
        os.kill(watchdog, signal.SIGKILL)
        deadline = time.monotonic() + LIMIT_S
        while any(map(alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not [pid for pid in processes if alive(pid)]
        assert not server.running
    assert not folder.exists()
    assert not list(SHARED_MEMORY.glob(f"{prefix}*"))


def test_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = ServerProcess("stubborn")
    try:
        script = "trap '' TERM; echo ready; while true; do sleep 0.1; done"
        pid = process.start(["/bin/sh", "-c", script], {}, tmp_path / "log")
        while not (tmp_path / "log").read_text():
            time.sleep(0.01)
        begin = time.monotonic()
        process.stop(0.5)
        assert 0.4 < time.monotonic() - begin < 3
        assert not alive(pid)
        assert process.exit_code == -signal.SIGKILL
    finally:
        process.close(0)
    assert not process.folder.exists()
