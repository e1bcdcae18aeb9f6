from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from wanspec.errors import ConfigError
from wanspec.triton import logs

FAILED_LOAD = """\
W1122 14:07:31.758969 5448 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1122 14:07:31.759119 5448 server.cc:241] "CudaDriverHelper has not been initialized."
I1122 14:07:31.759200 5448 server.cc:604]
+------+------+
| Path | Name |
+------+------+
E1122 14:07:32.000000 5448 model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: ValueError: no weights

At:
  /models/m/1/model.py(7): initialize
"
I1122 14:07:32.000001 5448 model_lifecycle.cc:777] "failed to load 'm'"
E1122 14:07:33.000000 5448 model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: ValueError: no weights
"""


def test_keeps_the_error_and_where_it_was_raised_once() -> None:
    assert logs.relevant_lines(FAILED_LOAD) == [
        "failed to load 'm' version 1: Internal: ValueError: no weights",
        "At:",
        "  /models/m/1/model.py(7): initialize",
    ]


def test_keeps_a_python_traceback() -> None:
    text = (
        "on\nTraceback (most recent call last):\n  File 'm.py', line 1\nKeyError: 'x'\nI1122 1:2:3 4 a.cc:1] \"on\"\nx"
    )
    assert logs.relevant_lines(text) == ["Traceback (most recent call last):", "  File 'm.py', line 1", "KeyError: 'x'"]


def test_without_an_error_the_last_lines() -> None:
    assert logs.relevant_lines("\n".join(map(str, range(9)))) == ["4", "5", "6", "7", "8"]
    assert logs.relevant_lines("") == []


def test_at_most_limit_lines() -> None:
    text = "Traceback (most recent call last):\n" + "\n".join(f"line {number}" for number in range(99))
    assert logs.relevant_lines(text, limit=3) == ["line 96", "line 97", "line 98"]


def test_tail_from_an_offset(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first run\nsecond \xff run\n")
    assert logs.read_tail(log, 10) == "second \ufffd run\n"
    log.write_bytes(b"x" * logs.TAIL_BYTES + b"end")
    assert len(logs.read_tail(log)) == logs.TAIL_BYTES
    assert logs.read_tail(tmp_path / "none") == ""


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert logs.default_folder() == tmp_path / "wanspec" / "logs"


def test_the_cause_of_a_failed_load_comes_first() -> None:
    problem = (
        "load failed: ModuleNotFoundError: No module named 'x'"
        "\n\nAt:\n  <frozen importlib._bootstrap>(1): f\n  a.py(3)\n;"
    )
    assert logs.cause(problem) == ["load failed: ModuleNotFoundError: No module named 'x'", "At:", "  a.py(3)"]
    assert len(logs.cause("line\n" * 50)) == 20


def make_log(folder: Path, pid: int, age_s: int) -> Path:
    path = folder / f"worker-20260101-000000-{pid}-{age_s:06d}.log"
    path.touch()
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def test_the_users_own_folder_keeps_the_newest_logs_and_those_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = logs.default_folder()
    folder.mkdir(parents=True)
    old = [make_log(folder, ended.pid, age) for age in range(logs.KEPT + 5)]
    used = make_log(folder, os.getpid(), 9999)
    foreign = folder / "notes.log"
    foreign.touch()
    new = logs.new_log(folder, "worker")
    new.touch()
    assert logs.OUR_LOG.fullmatch(new.name)
    assert set(folder.iterdir()) == {*old[: logs.KEPT - 1], used, foreign, new}


def test_a_folder_that_was_asked_for_keeps_all(tmp_path: Path) -> None:
    for age in range(logs.KEPT + 5):
        make_log(tmp_path, 2**22 + 1, age)
    logs.new_log(tmp_path, "worker")
    assert len(list(tmp_path.iterdir())) == logs.KEPT + 5


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"log_dir: /proc/x cannot be made \(No such file"):
        logs.new_log(Path("/proc/x"), "worker")
