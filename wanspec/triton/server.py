"""A ``tritonserver`` of our own on 127.0.0.1: started, awaited with progress, restarted, killed, cleaned up after."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from wanspec.errors import ConfigError, ServerError
from wanspec.network.ports import PortReservation, is_free, reserve_ports
from wanspec.triton import logs
from wanspec.triton.api import TritonApi
from wanspec.triton.binaries import find_binaries, prepare_backends, server_environment
from wanspec.triton.command import HOST, Ports, server_command
from wanspec.triton.process import ServerProcess
from wanspec.triton.readiness import BindError, Progress, Readiness
from wanspec.triton.repository import ModelRepository, models_of

logger = logging.getLogger(__name__)

BIND_ATTEMPTS = 3
STOP_TIMEOUT_S = 5.0


class TritonServer:
    """One server over one model repository. Blocking methods, for any thread; from asyncio use ``asyncio.to_thread``.

    ``with TritonServer(repository, name="worker") as server: server.wait_ready(60)``

    The server runs under a watchdog process, which ends it and removes its temporary folder and its shared memory when
    this process ends in whatever way. The log file is kept.
    """

    def __init__(
        self,
        repository: Path | ModelRepository,
        *,
        name: str = "triton",
        stages: Sequence[Sequence[str]] | None = None,
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        preferred_ports: Mapping[str, int] | None = None,
        env: Mapping[str, str] | None = None,
        extra_args: Sequence[str] = (),
        log_dir: Path | None = None,
    ) -> None:
        """Describe a server; ``start`` (or ``with``) starts it.

        Args:
            repository: a rendered folder, or a ``ModelRepository``, rendered into the server's temporary folder.
            name: letters, digits and hyphens; for messages and the log's name.
            stages: models to load: those of a stage at once, one stage after the other (for models that call others
                when they start). Default: every model of the repository in one stage.
            grpc_port, http_port, metrics_port: on 127.0.0.1; None chooses free ones.
            preferred_ports: by ``grpc``, ``http``, ``metrics``: chosen where they are free and no other server of ours
                has reserved them.
            env: added to the environment of the server and of its models.
            extra_args: added to tritonserver's command line.
            log_dir: where the log file goes; default ``logs.default_folder()``.

        Raises:
            ConfigError: ``name`` has other characters.
        """
        if not re.fullmatch(r"[A-Za-z0-9-]{1,40}", name):
            raise ConfigError("name", f"{name!r} must be 1 to 40 letters, digits or hyphens")
        self.name = name
        self._repository = repository
        self._stages = stages
        self._given_ports = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        self._preferred_ports = dict(preferred_ports or {})
        self._ports: Ports | None = None
        self._env = dict(env or {})
        self._extra_args = tuple(extra_args)
        self._log_dir = log_dir or logs.default_folder()
        self._log: Path | None = None
        self._log_start = 0
        self._models_folder: Path | None = None
        self._reservation: PortReservation | None = None
        self._process: ServerProcess | None = None

    def start(self) -> TritonServer:
        """Start the server and return it; does not wait for it (``wait_ready``).

        Raises:
            ConfigError: the repository does not render, or a model of ``stages`` is not in it.
            ServerError: already started, no Triton, a given port is taken, or the process does not start.
        """
        if self._process is not None:
            raise ServerError(f"server {self.name}: it was started already; stop it first, or call restart")
        process = self._process = ServerProcess(self.name)
        try:
            self._models_folder = self._render(process.folder)
            self._log = logs.new_log(self._log_dir, self.name)
            self._choose_ports()
            self._launch(process)
        except BaseException:
            self.stop(0)
            raise
        return self

    def wait_ready(self, timeout_s: float = 120.0, on_progress: Progress | None = None) -> None:
        """Load the models; return when the server and every one of them is ready.

        ``on_progress(state, seconds, models)`` is called every 50 ms, from this thread.

        Raises:
            ServerError: the process ended, a model did not load (with the exception of its Python code), or
                ``timeout_s`` passed. The message ends with the path of the log.
        """
        process = self._started()
        readiness = Readiness(self.name, timeout_s, on_progress)
        stages = [list(stage) for stage in self._stages] if self._stages is not None else [self.models]
        pending = [model for stage in stages for model in stage]
        for attempt in range(1, BIND_ATTEMPTS + 1):
            try:
                readiness.wait_server(process, self._api, self.log, self._log_start, pending)
                break
            except BindError:
                if attempt == BIND_ATTEMPTS or None not in self._given_ports.values():
                    raise
                logger.info("%s: a chosen port was taken in the meantime; choosing others", self.name)
                self._preferred_ports.clear()
                self._choose_ports()
                self._launch(process)
        for stage in stages:
            readiness.load(process, self._api, self.log, self._log_start, stage, pending)
        readiness.ready()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server and remove all it left: SIGTERM, after ``timeout_s`` SIGKILL. May be called twice."""
        process, self._process = self._process, None
        try:
            if process is not None:
                process.close(timeout_s)
        finally:
            if self._reservation is not None:
                self._reservation.release()

    def kill(self) -> None:
        """SIGKILL to the server and to its models' processes, as when its machine dies. ``restart`` brings it back."""
        self._started().kill()

    def restart(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Start again on the same ports, after ``kill``, a death or while running. Follow with ``wait_ready``.

        Raises:
            ServerError: never started, or it does not start again; ``restart`` may be called again then.
        """
        process = self._started()
        # Peers know these ports: should one be taken meanwhile, this start fails rather than choose another.
        self._given_ports = {"grpc": self.ports.grpc, "http": self.ports.http, "metrics": self.ports.metrics}
        if process.closed:  # its watchdog was killed, and the server with it: all is made anew
            process.close(0)
            process = self._process = ServerProcess(self.name)
            self._models_folder = self._render(process.folder)
        process.stop(timeout_s)
        self._launch(process)

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.running

    @property
    def exit_code(self) -> int | None:
        """How it ended, the negative of a signal's number if by one; None while it runs or where nothing told."""
        return self._process.exit_code if self._process is not None else None

    @property
    def pid(self) -> int | None:
        """The process id of tritonserver, None when it is not running. It leads a process group of its own."""
        return self._process.pid if self._process is not None else None

    @property
    def models(self) -> list[str]:
        """The models that the server serves, in the order of loading."""
        if self._stages is not None:
            return [model for stage in self._stages for model in stage]
        return models_of(self._models_folder) if self._models_folder is not None else []

    @property
    def ports(self) -> Ports:
        """The ports. Chosen ones may change until ``wait_ready`` returns, should a foreign process take one."""
        if self._ports is None:
            raise ServerError(f"server {self.name}: has no ports before start()")
        return self._ports

    @property
    def grpc_endpoint(self) -> str:
        """``host:port`` of gRPC."""
        return f"{HOST}:{self.ports.grpc}"

    @property
    def http_endpoint(self) -> str:
        """``host:port`` of HTTP."""
        return f"{HOST}:{self.ports.http}"

    @property
    def metrics_endpoint(self) -> str:
        """``host:port`` of the Prometheus metrics."""
        return f"{HOST}:{self.ports.metrics}"

    @property
    def log(self) -> Path:
        """The log file; a restart appends to it, ``stop`` keeps it."""
        if self._log is None:
            raise ServerError(f"server {self.name}: has no log before start()")
        return self._log

    @property
    def folder(self) -> Path:
        """The server's temporary folder, removed at the end."""
        return self._started().folder

    @property
    def shm_prefix(self) -> str:
        """How the names of the server's regions in /dev/shm start."""
        return self._started().shm_prefix

    def __enter__(self) -> TritonServer:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _api(self) -> TritonApi:
        return TritonApi(HOST, self.ports.http)

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise ServerError(f"server {self.name}: it is not started; call start()")
        return self._process

    def _render(self, folder: Path) -> Path:
        given = self._repository
        models_folder = given.render(folder / "models") if isinstance(given, ModelRepository) else given
        present = models_of(models_folder)
        for model in [model for stage in self._stages or () for model in stage]:
            if model not in present:
                raise ConfigError(
                    "stages", f"no model {model!r} in {models_folder}; it has: {', '.join(present) or 'none'}"
                )
        return models_folder

    def _choose_ports(self) -> None:
        for kind, port in self._given_ports.items():
            if port is not None and not is_free(port):
                raise ServerError(f"{kind}_port: {port} is in use; stop its user, choose another, or leave it out")
        if self._reservation is not None:
            self._reservation.release()
        kinds = [kind for kind, port in self._given_ports.items() if port is None]
        self._reservation = reserve_ports(len(kinds), [self._preferred_ports.get(kind) for kind in kinds])
        chosen = dict(zip(kinds, self._reservation.ports, strict=True))
        self._ports = Ports(**{kind: port or chosen[kind] for kind, port in self._given_ports.items()})

    def _launch(self, process: ServerProcess) -> None:
        assert self._models_folder is not None
        binaries = find_binaries()
        argv = server_command(
            binaries,
            repository=self._models_folder,
            backends=prepare_backends(binaries, process.folder),
            ports=self.ports,
            shm_prefix=process.shm_prefix,
            extra_args=self._extra_args,
        )
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        pid = process.start(argv, server_environment(binaries, process.folder, self._env), self.log)
        logger.info("%s: tritonserver %d, gRPC %s, log %s", self.name, pid, self.grpc_endpoint, self.log)
