"""Engines that share a GPU: one pass at a time, the longest waiting first, whatever becomes of a process."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wanspec.engines import runner as runner_module
from wanspec.engines.contract import GenerationRequest
from wanspec.engines.pace import Pace
from wanspec.engines.runner import EngineRunner
from wanspec.engines.shared_gpu import SharedGpu, gpu_use
from wanspec.engines.zero import ZeroEngine
from wanspec.errors import ConfigError

HOLDER = """
import sys, time
from wanspec.engines.shared_gpu import SharedGpu
with SharedGpu(sys.argv[1], "dies").turn(1):
    print("mine", flush=True)
    time.sleep(60)
"""


def waits(gpu: SharedGpu, since_ns: int, order: list[str], name: str) -> threading.Thread:
    def run() -> None:
        with gpu.turn(since_ns):
            order.append(name)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_who_has_waited_longest_is_next(tmp_path: Path) -> None:
    gpus = {name: SharedGpu(tmp_path, name) for name in ("target", "draft", "other")}
    order: list[str] = []
    with gpus["other"].turn(1):
        threads = [waits(gpus["target"], 30, order, "target")]
        time.sleep(0.02)  # it asks first, for a request that came later
        threads.append(waits(gpus["draft"], 20, order, "draft"))
        time.sleep(0.02)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order == ["draft", "target"]
    for gpu in gpus.values():
        gpu.close()


def test_a_dead_engine_holds_nothing_up(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "mine\n"
        order: list[str] = []
        gpu = SharedGpu(tmp_path, "draft")
        waiting = waits(gpu, 2, order, "draft")
        time.sleep(0.05)
        assert order == []
        holder.send_signal(signal.SIGKILL)
        holder.wait(5)
        waiting.join(5)
        assert order == ["draft"]


def test_one_that_died_while_it_waited_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "dead.engine").write_bytes((1).to_bytes(8, "little") + bytes(32))
    order: list[str] = []
    waits(SharedGpu(tmp_path, "draft"), 2, order, "draft").join(5)
    assert order == ["draft"]


def test_a_name_is_used_once_and_the_folder_must_be_there(tmp_path: Path) -> None:
    gpu = SharedGpu(tmp_path, "target")
    with pytest.raises(ConfigError, match="in use by another engine"):
        SharedGpu(tmp_path, "target")
    gpu.close()
    SharedGpu(tmp_path, "target").close()
    with pytest.raises(ConfigError, match="give a folder"):
        SharedGpu(tmp_path / "none", "target")


def test_two_engines_take_turns_and_each_pass_takes_all_who_wait(tmp_path: Path) -> None:
    runners = {
        name: EngineRunner(ZeroEngine(pace=Pace(pace)), name, gpu=SharedGpu(tmp_path, name))
        for name, pace in (("target", 40.0), ("draft", 10.0))
    }
    answers: queue.Queue[object] = queue.Queue()
    started = time.monotonic()
    for name, count in (("target", 1), ("draft", 2), ("target", 1), ("target", 1)):
        runners[name].submit(GenerationRequest(np.array([1], dtype=np.int32), count), answers.put)
        time.sleep(0.005)
    for _ in range(4):
        answers.get(timeout=5)
    took_ms = 1e3 * (time.monotonic() - started)
    for runner in runners.values():
        runner.close()
    used = gpu_use(tmp_path)
    # The first target pass, both draft steps, then one target pass of the two that came meanwhile.
    assert (used["target"].passes, used["target"].members) == (2, 3)
    assert (used["draft"].passes, used["draft"].members) == (2, 2)
    assert took_ms >= 100.0
    assert used["target"].busy_ns + used["draft"].busy_ns >= 100e6


def test_sequences_that_fell_apart_come_together_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sequences, begun apart: drafts of two tokens and a verification by turns, each some time after the other."""
    monkeypatch.setattr(runner_module, "SHARED_QUIET", 0.25)
    monkeypatch.setattr(runner_module, "SHARED_LINGER", 0.5)
    runners = {
        name: EngineRunner(ZeroEngine(max_draft_len=2, pace=Pace(pace)), name, gpu=SharedGpu(tmp_path, name))
        for name, pace in (("target", 40.0), ("draft", 10.0))
    }
    token, drafts = np.array([1], dtype=np.int32), np.array([1, 2], dtype=np.int32)
    calls = {"draft": GenerationRequest(token, 2), "target": GenerationRequest(token, 1, draft_input_ids=drafts)}
    following = {"draft": "target", "target": "draft"}
    answers: queue.Queue[str] = queue.Queue()

    def call(model: str) -> None:
        runners[model].submit(calls[model], lambda _: answers.put(model))

    call("draft")
    time.sleep(0.05)
    call("draft")
    for _ in range(40):
        model = answers.get(timeout=10)
        time.sleep(0.003)  # as a controller takes its time for one after another
        call(following[model])
    used = gpu_use(tmp_path)["target"]
    for runner in runners.values():
        runner.close()
    # Apart, which is how it stays without a wait, each has passes of its own.
    assert used.members / used.passes > 1.5
