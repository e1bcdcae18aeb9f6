"""Waiting for a server and its models, with progress, a deadline, and an error that says why not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from wanspec.errors import ServerError
from wanspec.triton import logs
from wanspec.triton.api import TritonApi

POLL_S = 0.05
READY_PROBES = 10

#: Called every POLL_S with the state ("starting", "loading", "ready"), the seconds so far, the models not yet loaded.
Progress: TypeAlias = Callable[[str, float, Sequence[str]], None]


class BindError(ServerError):
    """The server ended because one of its ports was taken."""


class Process(Protocol):
    """What is asked of the server's process while waiting."""

    @property
    def running(self) -> bool:
        """Whether it runs."""

    exit_code: int | None


class Readiness:
    """One wait: the server first, then its models, all within ``timeout_s`` from now."""

    def __init__(self, name: str, timeout_s: float, on_progress: Progress | None) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._on_progress = on_progress

    def wait_server(self, process: Process, api: TritonApi, log: Path, log_start: int, models: Sequence[str]) -> None:
        """Return when the server answers.

        Raises:
            BindError: it ended for want of a port.
            ServerError: it ended for another reason, or the time is over.
        """
        for _ in self._until_deadline("starting", models, log, log_start):
            if api.server_ready():
                return
            self._check_alive(process, log, log_start)

    def load(
        self, process: Process, api: TritonApi, log: Path, log_start: int, stage: Sequence[str], pending: list[str]
    ) -> None:
        """Load the models of ``stage`` at once; each is taken out of ``pending`` when it is ready.

        Raises:
            ServerError: one does not load, the server ended, or the time is over.
        """
        # Longer than the wait itself, whose error says more than a socket's.
        loads = [_Load(api, model, self._left_s() + 2 * POLL_S + 1.0) for model in stage]
        for _ in self._until_deadline("loading", pending, log, log_start):
            for load in [load for load in loads if not load.running]:
                loads.remove(load)
                if load.problem is not None:
                    self._check_alive(process, log, log_start, settle_s=0.5)
                    raise ServerError(self._message(f"model {load.model} does not load", logs.cause(load.problem), log))
                pending.remove(load.model)
            if not loads:
                return
            self._check_alive(process, log, log_start)

    def ready(self) -> None:
        """Tell the end to the callback."""
        self._tell("ready", ())

    def _until_deadline(self, state: str, models: Sequence[str], log: Path, log_start: int) -> Iterator[None]:
        while True:
            self._tell(state, models)
            yield
            if self._left_s() <= 0:
                what = f"not ready after {self._timeout_s:g} s ({state}; missing: {', '.join(models) or 'the server'})"
                advice = "wait longer, or see the log"
                raise ServerError(self._message(f"{what}; {advice}", _tail(log, log_start), log))
            time.sleep(POLL_S)

    def _check_alive(self, process: Process, log: Path, log_start: int, settle_s: float = 0.0) -> None:
        """Raise if the process ended; ``settle_s`` gives the news of its end time to arrive."""
        give_up = time.monotonic() + settle_s
        while process.running:
            if time.monotonic() >= give_up:
                return
            time.sleep(POLL_S)
        text = logs.read_tail(log, log_start)
        kind = BindError if logs.ADDRESS_IN_USE.search(text) else ServerError
        lines = logs.relevant_lines(text)
        raise kind(self._message(f"tritonserver ended with exit code {process.exit_code}", lines, log))

    def _message(self, what: str, lines: Sequence[str], log: Path) -> str:
        return "\n".join([f"server {self._name}: {what}", *lines, f"log: {log}"])

    def _left_s(self) -> float:
        return self._started + self._timeout_s - time.monotonic()

    def _tell(self, state: str, models: Sequence[str]) -> None:
        if self._on_progress is not None:
            self._on_progress(state, time.monotonic() - self._started, tuple(models))


def _tail(log: Path, log_start: int) -> list[str]:
    return logs.relevant_lines(logs.read_tail(log, log_start))


class _Load:
    """One model's load request, in a thread of its own: Triton answers when the model's ``initialize`` has ended."""

    def __init__(self, api: TritonApi, model: str, timeout_s: float) -> None:
        self.model = model
        self.problem: str | None = None
        self._thread = threading.Thread(target=self._run, args=(api, timeout_s), name=f"load {model}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self, api: TritonApi, timeout_s: float) -> None:
        try:
            api.load(self.model, timeout_s)
            # A probe waits in vain where Triton gives its connection to a thread that loads another model.
            if not any(api.model_ready(self.model) for _ in range(READY_PROBES)):
                self.problem = "it was loaded but is not ready"
        except (ServerError, OSError) as error:
            self.problem = str(error)
