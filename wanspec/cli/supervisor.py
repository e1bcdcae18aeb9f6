"""What ``wanspec up`` does while it runs: a lost worker is started again; the controller's end is the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from wanspec.errors import ServerError

POLL_S = 0.25
RESTART_DELAYS_S = (0.0, 5.0, 15.0, 30.0)
"""Waits before the first restart and the following ones: at most a few a minute."""
STEADY_S = 60.0
"""A worker that was back for this long starts over with the first delay."""
READY_TIMEOUT_S = 180.0
JOIN_TIMEOUT_S = 20.0


class Server(Protocol):
    """What is asked of a server (``wanspec.triton.server.TritonServer``)."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def running(self) -> bool:
        """Whether its process runs."""

    @property
    def exit_code(self) -> int | None:
        """How it ended."""

    @property
    def log(self) -> object:
        """Its log file."""

    def restart(self) -> None:
        """Start again on the same ports."""

    def wait_ready(self, timeout_s: float, on_progress: Callable[[str, float, Sequence[str]], None]) -> None:
        """Return when it serves."""


class Supervisor:
    """Watches both servers from the caller's thread; restarts the worker in one of its own. Use with ``with``.

    Leaving the ``with`` ends a restart under way, so that nothing starts while the deployment stops.
    """

    def __init__(self, controller: Server, worker: Server, tell: Callable[[str], None]) -> None:
        """``tell`` gets lines for people, from either thread."""
        self._controller = controller
        self._worker = worker
        self._tell = tell
        self._ending = threading.Event()
        self._restarting: threading.Thread | None = None
        self._lost = False
        self._attempts = 0
        self._back_s = 0.0

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._restarting is not None:
            self._restarting.join(JOIN_TIMEOUT_S)

    def watch(self) -> None:
        """Wait for a signal. Raises ServerError when the controller ends by itself."""
        while True:
            self.look()
            time.sleep(POLL_S)

    def look(self) -> None:
        """Look once: start a restart if the worker is lost. Raises ServerError when the controller has ended."""
        if not self._controller.running:
            raise ServerError(
                f"server {self._controller.name}: it ended by itself{_how(self._controller)}; "
                f"see its log: {self._controller.log}"
            )
        if self._restarting is not None and self._restarting.is_alive():
            return
        if self._lost or not self._worker.running:
            self._lost = True
            self._restarting = threading.Thread(target=self._restart, name="wanspec-restart", daemon=True)
            self._restarting.start()

    def _restart(self) -> None:
        if time.monotonic() - self._back_s >= STEADY_S:
            self._attempts = 0
        delay_s = RESTART_DELAYS_S[min(self._attempts, len(RESTART_DELAYS_S) - 1)]
        self._attempts += 1
        self._tell(
            f"worker lost{_how(self._worker)}: answers go on with local drafts; starting it again"
            + (f" in {delay_s:g} s" if delay_s else "")
        )
        if self._ending.wait(delay_s):
            return
        began = time.monotonic()
        try:
            self._worker.restart()
            self._worker.wait_ready(READY_TIMEOUT_S, self._go_on)
        except (ServerError, OSError) as error:
            if not self._ending.is_set():
                self._tell(f"worker did not start again: {error}")
            return
        finally:
            self._back_s = time.monotonic()
        self._lost = False
        self._tell(f"worker is back after {time.monotonic() - began:.0f} s: drafts cross the WAN again")

    def _go_on(self, state: str, seconds: float, models: Sequence[str]) -> None:
        """Called while waiting; the way to end the wait."""
        if self._ending.is_set():
            raise ServerError("the deployment is stopping")


def _how(server: Server) -> str:
    code = server.exit_code
    if code is None:
        return ""
    return f" (signal {-code})" if code < 0 else f" (exit code {code})"
