"""Both regions on this machine: a worker's Triton, a controller's Triton, and the relay that stands for the WAN."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from wanspec.errors import ServerError
from wanspec.models import check_pair
from wanspec.network.relay_host import RelayProcess
from wanspec.network.shape import LinkShape
from wanspec.network.tls import CLIENT_FILES, SERVER_FILES, check_folder
from wanspec.telemetry.settings import CONTROLLER, IDLE, SCARCE, WORKER
from wanspec.triton.command import tls_flags
from wanspec.triton.readiness import Progress
from wanspec.triton.regions import RegionSettings, controller_repository, controller_stages, worker_repository
from wanspec.triton.server import STOP_TIMEOUT_S, TritonServer
from wanspec.triton.traces import trace_flags

logger = logging.getLogger(__name__)

READY_TIMEOUT_S = 180.0


class DeploymentProgress(Protocol):
    """Told of each server's progress, from threads of the deployment."""

    def __call__(self, server: str, state: str, seconds: float, models: tuple[str, ...]) -> None:
        """``server``: ``worker`` or ``controller``; the rest as :data:`wanspec.triton.readiness.Progress`.

        One more ``state`` is ``stopping``: the start failed or was interrupted, and what was started is stopped now.
        """
        ...


@dataclass(frozen=True, slots=True)
class DeploymentSettings:
    """What to start.

    Attributes:
        regions: models and engines.
        link: the path between the regions, ``delay_ms`` one way; None joins them without a relay.
        grpc_port, http_port, metrics_port: of the controller's Triton; free ones where None.
        preferred_ports: by ``grpc``, ``http``, ``metrics``: taken where they are not given and free.
        log_dir: where the servers' logs are kept; a folder per user where None.
        env: added to the environment of both servers.
        controller_args: more arguments for the controller's tritonserver.
    """

    regions: RegionSettings
    link: LinkShape | None = field(default_factory=LinkShape)
    grpc_port: int | None = None
    http_port: int | None = None
    metrics_port: int | None = None
    preferred_ports: Mapping[str, int] = field(default_factory=dict)
    log_dir: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    controller_args: tuple[str, ...] = ()


class Deployment:
    """Two regions, up until :meth:`stop`. Blocking methods, for any thread.

    ``with Deployment(settings) as deployment: ... deployment.controller.grpc_endpoint``

    Attributes:
        worker, controller: the servers.
        relay: the WAN between them; ``relay.set(delay_ms=..., state=...)`` changes it, ``relay.stats()`` counts bytes.
    """

    def __init__(self, settings: DeploymentSettings) -> None:
        """Describe it.

        Raises:
            ModelError: target and draft do not share a tokenizer, or a folder is incomplete.
            ConfigError: a setting cannot work.
        """
        if settings.regions.worker_tls:
            check_folder(Path(settings.regions.worker_tls), (*SERVER_FILES, *CLIENT_FILES[:2]), "worker_tls")
        check_pair(settings.regions.target_dir, settings.regions.draft_dir)
        controller_repository(settings.regions, "")  # what cannot work is told before anything starts
        self.settings, tls = settings, settings.regions.worker_tls
        self.worker = TritonServer(
            worker_repository(settings.regions),
            name="worker",
            log_dir=settings.log_dir,
            env=settings.env,
            # Every frame of a controller is a request here: none is to be traced by itself.
            extra_args=(
                *(tls_flags(Path(tls)) if tls else ()),
                *trace_flags(settings.regions.traces.url, 0, WORKER, IDLE),
            ),
        )
        self.controller: TritonServer
        self.relay: RelayProcess
        self._started: list[TritonServer | RelayProcess] = []

    def start(self, on_progress: DeploymentProgress | None = None, timeout_s: float = READY_TIMEOUT_S) -> Deployment:
        """Start both servers and the relay; return when both serve.

        Raises:
            ServerError: a server did not start; the message says why and where its log is. All is stopped then.
        """
        try:
            self._start(on_progress, timeout_s)
        except BaseException:
            if on_progress is not None:
                for server in (part for part in self._started if isinstance(part, TritonServer)):
                    on_progress(server.name, "stopping", 0.0, ())
            self.stop()
            raise
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop everything; servers that have not ended after ``timeout_s`` are killed. May be called twice."""
        started, self._started = self._started, []
        if started:
            with ThreadPoolExecutor(len(started), thread_name_prefix="wanspec-stop") as pool:
                stops = [
                    pool.submit(part.stop, timeout_s) if isinstance(part, TritonServer) else pool.submit(part.stop)
                    for part in started
                ]
            for stop in stops:
                stop.result()

    def __enter__(self) -> Deployment:
        return self if self._started else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, on_progress: DeploymentProgress | None, timeout_s: float) -> None:
        settings = self.settings
        self.worker.start()
        self._started.append(self.worker)
        port = self.worker.ports.grpc
        endpoint = self.worker.grpc_endpoint
        if settings.link is not None:
            self.relay = RelayProcess("127.0.0.1", port, settings.link)
            self.relay.start()
            self._started.append(self.relay)
            endpoint = self.relay.endpoint
        self.controller = TritonServer(
            controller_repository(settings.regions, endpoint),
            name="controller",
            stages=controller_stages(settings.regions),
            grpc_port=settings.grpc_port,
            http_port=settings.http_port,
            metrics_port=settings.metrics_port,
            preferred_ports=settings.preferred_ports,
            log_dir=settings.log_dir,
            env=settings.env,
            extra_args=(
                *trace_flags(settings.regions.traces.url, settings.regions.traces.rate, CONTROLLER, SCARCE),
                *settings.controller_args,
            ),
        )
        self.controller.start()
        self._started.append(self.controller)
        pool = ThreadPoolExecutor(2, thread_name_prefix="wanspec-start")
        try:
            waits = [
                pool.submit(server.wait_ready, timeout_s, _progress(server.name, on_progress))
                for server in (self.worker, self.controller)
            ]
            for wait in as_completed(waits):
                wait.result()
        finally:
            # A failure or a Ctrl-C goes on to stop the servers at once, which ends the waits.
            pool.shutdown(wait=False, cancel_futures=True)
        if self.worker.ports.grpc != port:
            raise ServerError(f"port {port} of the worker was taken by another process; start again")


def _progress(server: str, on_progress: DeploymentProgress | None) -> Progress | None:
    if on_progress is None:
        return None
    return lambda state, seconds, models: on_progress(server, state, seconds, tuple(models))
