"""A lost worker is started again, with growing waits; the controller's end is the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from wanspec.cli import supervisor
from wanspec.cli.supervisor import Supervisor
from wanspec.errors import ServerError

WAIT_S = 5.0


class FakeServer:
    """Runs until ``die``; a restart takes until ``ready`` is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        self.exit_code: int | None = None
        self.log = Path("/tmp/log")
        self.restarts = 0
        self.problem: ServerError | None = None
        self.ready = threading.Event()
        self.ready.set()

    def die(self, code: int) -> None:
        self.running, self.exit_code = False, code

    def restart(self) -> None:
        self.restarts += 1
        self.running, self.exit_code = True, None

    def wait_ready(self, timeout_s: float, on_progress: Callable[[str, float, Sequence[str]], None]) -> None:
        while not self.ready.wait(0.01):
            on_progress("loading", 0.0, ())
        if self.problem is not None:
            raise self.problem


class Watched:
    """A supervisor over two fakes, and what it said."""

    def __init__(self) -> None:
        self.controller, self.worker = FakeServer("controller"), FakeServer("worker")
        self.said: list[str] = []
        self.supervisor = Supervisor(self.controller, self.worker, self.said.append)

    def look_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, self.said
            self.supervisor.look()
            time.sleep(0.01)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_lost_worker_is_started_again_and_both_are_told(watched: Watched) -> None:
    watched.supervisor.look()
    assert watched.said == []
    watched.worker.die(-9)
    watched.look_until(lambda: len(watched.said) == 2)
    assert watched.said[0] == ("worker lost (signal 9): answers go on with local drafts; starting it again")
    assert watched.said[1].startswith("worker is back")
    assert watched.worker.restarts == 1
    assert watched.controller.restarts == 0


def test_the_end_of_the_controller_is_an_error_even_while_the_worker_restarts(watched: Watched) -> None:
    watched.worker.ready.clear()
    watched.worker.die(1)
    watched.look_until(lambda: watched.worker.restarts == 1)
    watched.controller.die(-11)
    with (
        watched.supervisor,
        pytest.raises(ServerError, match=r"server controller: .* \(signal 11\); see its log: /tmp"),
    ):
        watched.supervisor.look()


def test_a_worker_that_keeps_dying_waits_longer_each_time(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAYS_S", (0.0, 0.05, 0.1))
    for times in range(1, 5):
        watched.worker.die(2)
        watched.look_until(lambda times=times: sum("is back" in line for line in watched.said) == times)
    lost = [line.rpartition("again")[2] for line in watched.said if "lost" in line]
    assert lost == ["", " in 0.05 s", " in 0.1 s", " in 0.1 s"]
    monkeypatch.setattr(supervisor, "STEADY_S", 0.0)
    watched.worker.die(2)
    watched.look_until(lambda: "is back" in watched.said[-1] and watched.worker.restarts == 5)
    assert watched.said[-2].endswith("again"), "after a steady time the first restart is at once"


def test_a_failed_restart_is_told_and_tried_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAYS_S", (0.0,))
    watched.worker.problem = ServerError("server worker: no memory")
    watched.worker.die(-9)
    watched.look_until(lambda: any("did not start again: server worker: no memory" in line for line in watched.said))
    watched.worker.problem = None
    watched.look_until(lambda: "is back" in watched.said[-1])
    assert watched.worker.restarts >= 2


def test_leaving_ends_a_restart_under_way_quietly(watched: Watched) -> None:
    watched.worker.ready.clear()
    with watched.supervisor:
        watched.worker.die(-9)
        watched.look_until(lambda: watched.worker.restarts == 1)
    assert not any(thread.name == "wanspec-restart" for thread in threading.enumerate())
    assert len(watched.said) == 1
