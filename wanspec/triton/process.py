"""Our end of the watchdog: one server process that is started, stopped, killed and always cleaned up after."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from wanspec.errors import ServerError
from wanspec.triton import watchdog

logger = logging.getLogger(__name__)

WATCHDOG_TIMEOUT_S = 10.0


class ServerProcess:
    """A server under a watchdog, with a temporary ``folder`` and a shared memory prefix that end with this process.

    All methods block, briefly and with a deadline, and may be called from any thread.
    """

    def __init__(self, name: str) -> None:
        """Start the watchdog, not the server.

        Raises:
            ServerError: the watchdog does not start.
        """
        identity = f"{name}_{secrets.token_hex(4)}"
        self.folder = Path(tempfile.gettempdir()) / f"wanspec_{identity}"
        self.shm_prefix = f"wanspec_{identity}_"
        self._created = time.time() - 1  # file times are coarser than the clock
        self.pid: int | None = None
        self.exit_code: int | None = None
        self._changed = threading.Condition()
        self._ready = False
        self._problem: str | None = None
        self._watchdog = subprocess.Popen(
            # -I -S: nothing of the environment or of site-packages is needed, and it starts in 20 ms.
            [sys.executable, "-I", "-S", watchdog.__file__, "--folder", self.folder, "--shm-prefix", self.shm_prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, not the watchdog's
        )
        self._reader = threading.Thread(target=self._read, name=f"watchdog of {name}", daemon=True)
        self._reader.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._gone, WATCHDOG_TIMEOUT_S)
            started = self._ready
        if not started:
            self.close(0)
            raise ServerError(f"{name}: the watchdog process did not start; is {self.folder.parent} writable?")

    @property
    def running(self) -> bool:
        """Whether the server process is running, as far as the watchdog has said."""
        with self._changed:
            return self.pid is not None and not self._gone

    @property
    def closed(self) -> bool:
        """Whether the watchdog has gone: nothing can be started any more."""
        return self._gone

    def start(self, argv: Sequence[str | Path], env: Mapping[str, str], log: Path) -> int:
        """Start the server and return its process id. Its output is appended to ``log``.

        Raises:
            ServerError: it is already running, closed, or cannot be executed.
        """
        if self.running:
            raise ServerError("server process: it is already running; stop it first")
        with self._changed:
            self.exit_code, self._problem = None, None
        self._send(op="start", argv=[str(part) for part in argv], env=dict(env), log=str(log))
        with self._changed:
            self._changed.wait_for(self._start_answered, WATCHDOG_TIMEOUT_S)
            if self.pid is None and self.exit_code is None:
                raise ServerError(f"server process: {argv[0]} did not start: {self._problem or 'no answer'}")
            return self.pid or 0

    def stop(self, timeout_s: float) -> None:
        """SIGTERM; after ``timeout_s`` SIGKILL to all its processes. Returns when they are gone."""
        self._end("stop", timeout_s)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as when a machine dies. The folder stays."""
        self._end("kill", 0)

    def close(self, timeout_s: float) -> None:
        """Stop the server and the watchdog; remove the folder and the shared memory. May be called twice."""
        if self.running:
            with contextlib.suppress(ServerError):
                self._end("stop", timeout_s)
        assert self._watchdog.stdin is not None
        with contextlib.suppress(OSError):
            self._watchdog.stdin.close()
        try:
            self._watchdog.wait(WATCHDOG_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning("watchdog %d does not end; killing it and its server", self._watchdog.pid)
            self._watchdog.kill()  # its server dies with it (PR_SET_PDEATHSIG)
            self._watchdog.wait(WATCHDOG_TIMEOUT_S)
        self._reader.join(WATCHDOG_TIMEOUT_S)
        watchdog.clean_up(self.folder, self.shm_prefix, self._created)

    @property
    def _gone(self) -> bool:
        return self._watchdog.poll() is not None

    def _start_answered(self) -> bool:
        return self.pid is not None or self.exit_code is not None or self._problem is not None or self._gone

    def _end(self, op: str, timeout_s: float) -> None:
        if not self.running:
            return
        self._send(op=op, timeout_s=timeout_s)
        with self._changed:
            ended = self._changed.wait_for(lambda: self.pid is None or self._gone, timeout_s + WATCHDOG_TIMEOUT_S)
        if not ended:
            raise ServerError(f"server process {self.pid}: does not end, even by SIGKILL; see `ps` for its state")

    def _send(self, **command: object) -> None:
        assert self._watchdog.stdin is not None
        try:
            self._watchdog.stdin.write(json.dumps(command).encode() + b"\n")
            self._watchdog.stdin.flush()
        except (OSError, ValueError) as error:
            raise ServerError("server process: it was closed, or its watchdog was killed; start a new one") from error

    def _read(self) -> None:
        assert self._watchdog.stdout is not None
        with self._watchdog.stdout as output:
            for line in output:
                with self._changed:
                    self._apply(json.loads(line))
                    self._changed.notify_all()
        self._watchdog.wait()
        with self._changed:
            self._changed.notify_all()

    def _apply(self, message: dict[str, object]) -> None:
        event = message["event"]
        if event == "ready":
            self._ready = True
        elif event == "started":
            self.pid = int(str(message["pid"]))
        elif event == "exited":
            self.pid, self.exit_code = None, int(str(message["code"]))
        else:
            self._problem = str(message["problem"])
