"""A relay in a thread, or in a process of its own, with one surface: start, stop, set, stats.

The process is the one to measure with: in a thread, the relay's timing suffers from whatever else Python does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from wanspec.errors import ConfigError, ServerError
from wanspec.network.relay import Relay
from wanspec.network.shape import LinkShape, Script, check_script
from wanspec.network.stats import RelayStats

ANSWER_TIMEOUT_S = 10.0
Result = TypeVar("Result")


class _Hosted:
    """What both have in common. The arguments are those of ``Relay``."""

    def __init__(
        self,
        target_host: str,
        target_port: int,
        shape: LinkShape | None = None,
        *,
        listen_port: int | None = None,
        seed: int = 0,
        time_scale: float = 1.0,
        script: Script = (),
    ) -> None:
        self._target_host, self._target_port = target_host, target_port
        self._shape = shape or LinkShape()
        self._listen_port, self._seed, self._time_scale = listen_port, seed, time_scale
        self._script = check_script(self._shape, script)
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._port is None:
            raise ServerError("relay: it has no port before start()")
        return self._port

    @property
    def endpoint(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen."""
        raise NotImplementedError

    def stop(self) -> None:
        """Reset the connections and end."""
        raise NotImplementedError

    def __enter__(self: Host) -> Host:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


Host = TypeVar("Host", bound=_Hosted)


class RelayThread(_Hosted):
    """A relay in a thread of this process."""

    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread
    _relay: Relay

    def start(self) -> None:
        """Listen.

        Raises:
            ServerError: the port is taken.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        self._relay = Relay(
            self._target_host,
            self._target_port,
            self._shape,
            listen_port=self._listen_port,
            seed=self._seed,
            time_scale=self._time_scale,
            script=self._script,
        )
        try:
            self._run(self._relay.start())
        except ServerError:
            self.stop()
            raise
        self._port = self._relay.port

    def stop(self) -> None:
        """Reset the connections and end the thread; ``stats`` still answers. May be called twice."""
        loop = self._loop
        if loop is None:
            return
        self._run(self._relay.stop())
        self._loop = None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(ANSWER_TIMEOUT_S)
        loop.close()

    def set(self, **changes: object) -> None:
        """Change the path; see ``Relay.set``."""
        if self._loop is None:
            raise ServerError("relay: it is not running; call start()")
        self._run(self._relay.set(**changes))

    def stats(self) -> RelayStats:
        """What it has carried until now, or until its end."""
        return self._relay.stats() if self._loop is None else self._run(self._stats())

    async def _stats(self) -> RelayStats:
        return self._relay.stats()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(ANSWER_TIMEOUT_S)


class RelayProcess(_Hosted):
    """A relay in a process of its own, which ends with this one in whatever way this one ends."""

    _process: subprocess.Popen[str] | None = None
    _last: RelayStats | None = None

    def start(self) -> None:
        """Listen.

        Raises:
            ServerError: the port is taken, or the process does not start.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *_path()]),
        }
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wanspec.network.relay", *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a failure to start is also an answer
            text=True,
            env=environment,
            start_new_session=True,  # a Ctrl-C in the terminal is for its owner, who stops it in order
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), name="relay answers", daemon=True)
        self._reader.start()
        try:
            self._port = int(self._expect("listening")["port"])
        except ServerError:
            self.stop()
            raise

    def stop(self) -> None:
        """Reset the connections and end the process; ``stats`` still answers. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(ANSWER_TIMEOUT_S)
        self._reader.join(ANSWER_TIMEOUT_S)
        while not self._answers.empty():
            self._keep(self._answers.get())

    @property
    def pid(self) -> int | None:
        """The process id, None when it is not running."""
        return self._process.pid if self._process is not None else None

    def set(self, **changes: object) -> None:
        """Change the path; see ``Relay.set``."""
        with self._lock:
            self._send(json.dumps(changes))
            self._expect("set")

    def stats(self) -> RelayStats:
        """What it has carried until now, or until its end."""
        if self._process is not None:
            with self._lock:
                self._send("stats")
                self._keep(self._expect("stats"))
        if self._last is None:
            raise ServerError("relay: it has carried nothing before start()")
        return self._last

    def _arguments(self) -> list[str]:
        return [
            f"--listen={self._listen_port or 0}",
            f"--to={self._target_host}:{self._target_port}",
            f"--shape={json.dumps(dataclasses.asdict(self._shape))}",
            f"--script={json.dumps(self._script)}",
            f"--seed={self._seed}",
            f"--time-scale={self._time_scale}",
            "--end-with-parent",
        ]

    def _send(self, line: str) -> None:
        if self._process is None:
            raise ServerError("relay: it is not running; call start()")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ServerError("relay: its process has ended; start another") from error

    def _expect(self, event: str) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=ANSWER_TIMEOUT_S)
        except queue.Empty:
            raise ServerError(f"relay: no answer ({event}) within {ANSWER_TIMEOUT_S:g} s") from None
        if answer["event"] == "error":
            field, _, problem = str(answer["problem"]).partition(": ")
            raise ConfigError(field, problem)
        if answer["event"] != event:
            raise ServerError(str(answer.get("problem", "relay: its process has ended; start another")))
        return answer

    def _keep(self, answer: dict[str, Any]) -> None:
        if answer["event"] == "stats":
            self._last = RelayStats.from_dict(answer["stats"])

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                self._answers.put(json.loads(line))
        self._answers.put({"event": "ended"})


def _path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
