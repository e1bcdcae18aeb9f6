"""Helper programs with a deadline, whose output is kept for the error message."""

from __future__ import annotations

import contextlib
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
    running after ``deadline_s`` seconds. Neither the program nor what it started outlives the call.
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
    """End the program, and what it left running in its process group."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_S)
    _signal(process, signal.SIGKILL)
    process.wait(_TERMINATE_S)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # It leads a group of its own, whose number is taken as long as one of the group lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:] or "no output"
