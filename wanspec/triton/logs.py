"""Triton's log files: where they go, and the lines that say what went wrong."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from wanspec.errors import ConfigError

KEPT = 20
"""Logs kept in the user's own folder; the oldest beyond go when a new one begins."""
OUR_LOG = re.compile(r"[A-Za-z0-9-]{1,40}-\d{8}-\d{6}-(?P<pid>\d+)-\d{6}\.log")
TAIL_BYTES = 256 * 1024
# Triton: `E1122 13:56:52.123456 4242 model_lifecycle.cc:642] "message"` (with or without the quotes, by version).
ERROR_LINE = re.compile(r'^[EF]\d{4} [\d:.]+ \d+ [\w.]+:\d+\] "?(?P<message>.*?)"?$')
LOG_LINE = re.compile(r"^[IWEF]\d{4} [\d:.]+ \d+ ")
# Logged by every server on a machine without a GPU.
HARMLESS = re.compile(r"CudaDriverHelper has not been initialized")
# How the loader and the parser of the command line begin, which log without a level.
COMPLAINT = re.compile(r"unrecognized option|requires an argument|error while loading|symbol lookup error")
ADDRESS_IN_USE = re.compile(r"address already in use|already in use|failed to start (grpc|http|metrics) service", re.I)


def default_folder() -> Path:
    """``$XDG_STATE_HOME/wanspec/logs``, by default under ``~/.local/state``."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "wanspec" / "logs"


def new_log(folder: Path, name: str) -> Path:
    """A path for a new log of server ``name`` in ``folder``, which is made.

    The default folder keeps the newest ``KEPT`` logs, and all of processes that still run; other folders keep all.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    make_folder(folder)
    if folder == default_folder():
        _prune(folder, KEPT - 1)
    return folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{time.monotonic_ns() % 1_000_000:06d}.log"


def make_folder(folder: Path) -> None:
    """Make ``folder`` unless it is there.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "log_dir", f"{folder} cannot be made ({error.strerror or error}); choose another folder"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError("log_dir", f"{folder} cannot be written; choose another folder")


def _prune(folder: Path, kept: int) -> None:
    found: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        matched = OUR_LOG.fullmatch(path.name)
        if matched and not _runs(int(matched["pid"])):
            with contextlib.suppress(OSError):  # another process prunes too
                found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[: -kept or None]:
        with contextlib.suppress(OSError):
            path.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def read_tail(path: Path, start: int = 0) -> str:
    """The last 256 KiB of the log from byte ``start`` on; empty when there is no log."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(start, size - TAIL_BYTES))
            return log.read().decode("utf-8", "replace")
    except OSError:
        return ""


def relevant_lines(text: str, limit: int = 20) -> list[str]:
    """At most ``limit`` lines of ``text`` that tell why: errors with their continuation lines, and Python tracebacks.

    Of repeated lines the first is kept (Triton logs one failure at several levels). Without any error, the last lines.
    """
    chosen: list[str] = []
    inside = False
    for line in text.splitlines():
        error = ERROR_LINE.match(line)
        if HARMLESS.search(line):
            inside = False
        elif error or line.startswith("Traceback "):
            inside = True
        elif LOG_LINE.match(line) or line.startswith("+---"):
            inside = False
        kept = error["message"] if error else line.rstrip()
        if inside and kept.strip(' "') and kept not in chosen:
            chosen.append(kept)
    if not chosen:
        lines = [line.rstrip() for line in text.splitlines() if line.strip() and not HARMLESS.search(line)]
        chosen = [line for line in lines if COMPLAINT.search(line)] or lines[-5:]
    return chosen[-limit:]


def cause(problem: str, limit: int = 20) -> list[str]:
    """The first ``limit`` lines of what Triton answers when a model does not load: the exception comes first.

    The import machinery's own frames are left out; they push the cause off the screen.
    """
    lines = [line.rstrip() for line in problem.splitlines()]
    return [line for line in lines if line.strip(" ;") and "<frozen importlib" not in line][:limit]
