"""The process between us and one ``tritonserver``: it starts it, ends it, and cleans up after it even when we crash.

Run as a script (standard library only, so that it starts in milliseconds):
``python watchdog.py --folder F --shm-prefix P``. One JSON object a line:

- in:  ``{"op": "start", "argv": [...], "env": {...}, "log": path}``, ``{"op": "stop", "timeout_s": s}`` (SIGTERM, then
  SIGKILL of the group), ``{"op": "kill"}`` (SIGKILL at once)
- out: ``{"event": "ready"}``, ``{"event": "started", "pid": n}``, ``{"event": "exited", "code": n}``,
  ``{"event": "failed", "problem": text}``

The end of stdin, another parent, or SIGTERM end everything: the server, whatever it left running, the shared memory of
the prefix and the folder. The server gets a process group of its own; processes that leave the group are found all the
same, because orphans are re-parented to this process (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
POLL_S = 0.2
GRACE_S = 1.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory regions whose name starts with ``prefix``."""
    if not prefix or not SHARED_MEMORY.is_dir():
        return
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            region.unlink()


def remove_environment_folders(since: float) -> None:
    """Remove what the python backend of a killed server leaves: empty folders made after ``since`` (Unix time).

    Its place is fixed in the backend, so the server's own temporary folder cannot hold it.
    """
    for folder in Path("/tmp").glob("python_env_??????"):
        with contextlib.suppress(OSError):
            status = folder.stat()
            if status.st_uid == os.getuid() and status.st_mtime >= since:
                folder.rmdir()  # fails, as it should, on one that is in use


def clean_up(folder: Path, shm_prefix: str, since: float) -> None:
    """Remove what a server started after ``since`` (Unix time) left behind, in memory and on disk."""
    remove_shared_memory(shm_prefix)
    remove_environment_folders(since)
    shutil.rmtree(folder, ignore_errors=True)


def children_of(parent: int) -> list[int]:
    """Ids of the processes whose parent is ``parent``, zombies included (from /proc)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The second field, the command's name in brackets, may itself hold spaces and brackets.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


class Watchdog:
    """Owns one server process at a time, one folder and one shared memory prefix."""

    def __init__(self, folder: Path, shm_prefix: str) -> None:
        self._folder = folder
        self._shm_prefix = shm_prefix
        self._parent = os.getppid()
        self._server: subprocess.Popen[bytes] | None = None
        self._started = time.time() - 1  # file times are coarser than the clock
        self._asked_to_end = False

    def run(self) -> None:
        """Serve commands until the parent is gone, then clean up."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._folder.mkdir(mode=0o700, parents=True)
        try:
            self._report(event="ready")
            self._serve()
        finally:
            self._end_server(GRACE_S)
            clean_up(self._folder, self._shm_prefix, self._started)

    def _serve(self) -> None:
        pending = b""
        while not self._asked_to_end and os.getppid() == self._parent:
            readable, _, _ = select.select([0], [], [], POLL_S)
            if readable:
                received = os.read(0, 1 << 16)
                if not received:
                    return
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
            if self._server is not None and self._server.poll() is not None:
                self._end_server(0)

    def _obey(self, command: dict[str, Any]) -> None:
        if command["op"] == "start":
            self._start(command["argv"], command["env"], command["log"])
        else:
            self._end_server(command.get("timeout_s", 0))

    def _start(self, argv: list[str], env: dict[str, str], log: str) -> None:
        try:
            with open(log, "ab") as output:
                self._server = subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
        except OSError as error:
            self._report(event="failed", problem=str(error))
        else:
            self._report(event="started", pid=self._server.pid)

    def _end_server(self, timeout_s: float) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        if timeout_s > 0 and server.poll() is None:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        self._reap()
        remove_shared_memory(self._shm_prefix)
        remove_environment_folders(self._started)
        self._report(event="exited", code=server.returncode)

    def _reap(self) -> None:
        """Kill and collect what the server left behind; killing one may re-parent others to us, hence the loop."""
        deadline = time.monotonic() + GRACE_S
        while (left := children_of(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.005)

    def _end(self, number: int, frame: object) -> None:
        self._asked_to_end = True

    def _report(self, **message: object) -> None:
        with contextlib.suppress(OSError):
            os.write(1, json.dumps(message).encode() + b"\n")


def _die_with_parent() -> None:
    """In the child: die if this watchdog is killed, which is the one end it cannot handle itself."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description="Keeper of one tritonserver process.")
    parser.add_argument("--folder", type=Path, required=True, help="temporary folder to make, and to remove at the end")
    parser.add_argument("--shm-prefix", required=True, help="prefix of the shared memory regions to remove")
    given = parser.parse_args()
    Watchdog(given.folder, given.shm_prefix).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
