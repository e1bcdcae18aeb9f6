"""Helper programs with a deadline, whose output is kept for the error message."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wanspec.errors import ModelError

_POLL_S = 0.1
_TERMINATE_S = 5.0


def run(
    command: Sequence[str],
    *,
    purpose: str,
    log: Path,
    deadline_s: float,
    cure: str,
    env: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Run ``command`` with its output in ``log``; ``on_tick`` is called every 0.1 s while it runs.

    Raises ModelError that says ``purpose``, the last lines of the output and ``cure`` if the program fails or is still
    running after ``deadline_s`` seconds. A program that is ended early takes what it started along.
    """
    deadline = time.monotonic() + deadline_s
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                on_tick()
                time.sleep(_POLL_S)
        finally:
            _end(process)
    if process.returncode == 0:
        return
    problem = "took too long" if time.monotonic() >= deadline else f"failed (exit status {process.returncode})"
    raise ModelError(f"{purpose} {problem}: {_tail(log)}. {cure}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program, if it still runs, and all in its process group."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _TERMINATE_S
    while not _has_ended(process.pid) and time.monotonic() < deadline:
        time.sleep(_POLL_S / 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(_TERMINATE_S)


def _has_ended(pid: int) -> bool:
    # It stays to be waited for, so that the number of its group is not given to another.
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "no output"
