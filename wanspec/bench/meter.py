"""What a deployment on this machine uses while it answers: CPU time by process, bytes on the WAN."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

import psutil

from wanspec.engines.shared_gpu import gpu_use
from wanspec.triton.deployment import Deployment
from wanspec.triton.server import TritonServer

OURS = ("controller server", "controller", "worker server")
"""Processes without a model in them. The worker's process also holds its draft engine, and is counted apart."""

_STUB = re.compile(r"/(\w+)/\d+/model\.py$")
_NAMES = {"wanspec": "controller", "wanspec_worker": "worker with its draft", "tensorrt_llm": "target"}


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment.

    Attributes:
        cpu_ms: by process, user and system, since its start.
        busy_ms, all_ms: of all cores together, work of any process, and all time.
        gpu: of a GPU that engines share, by engine: milliseconds, passes, requests in them.
    """

    cpu_ms: dict[str, float] = field(default_factory=dict)
    busy_ms: float = 0.0
    all_ms: float = 0.0
    gpu: dict[str, list[float]] = field(default_factory=dict)


class Meter:
    """Reads what a deployment of ours uses; of any other only how busy this machine is."""

    def __init__(self, deployment: Deployment | None) -> None:
        """``deployment``: running, or None."""
        self._deployment = deployment
        self._processes = {} if deployment is None else _processes(deployment)

    def read(self) -> Reading:
        """Read the counters. A process that has ended keeps none."""
        cpu: dict[str, float] = {}
        for name, process in self._processes.items():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu[name] = 1e3 * (times.user + times.system)
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return Reading(cpu, 1e3 * (everything - idle), 1e3 * everything, self._gpu())

    def _gpu(self) -> dict[str, list[float]]:
        folder = "" if self._deployment is None else self._deployment.settings.regions.shared_gpu
        used = gpu_use(folder) if folder else {}
        return {name: [use.busy_ns / 1e6, use.passes, use.members] for name, use in used.items()}

    def wan_bytes(self) -> tuple[int, int] | None:
        """Bytes that have crossed the relay, to the worker and back; None without a relay."""
        if self._deployment is None or self._deployment.settings.link is None:
            return None
        stats = self._deployment.relay.stats()
        return stats.up.bytes, stats.down.bytes


def _processes(deployment: Deployment) -> dict[str, psutil.Process]:
    found = _of_server(deployment.controller) | _of_server(deployment.worker)
    if deployment.settings.link is not None and deployment.relay.pid is not None:
        found["relay"] = psutil.Process(deployment.relay.pid)
    return found


def _of_server(server: TritonServer) -> dict[str, psutil.Process]:
    if server.pid is None:
        return {}
    leader = psutil.Process(server.pid)
    found = {f"{server.name} server": leader}
    for child in leader.children(recursive=True):
        models = [match[1] for word in child.cmdline() if (match := _STUB.search(word))]
        if models:
            found[_NAMES.get(models[0], models[0])] = child
    return found
