"""The checks of ``wanspec doctor``. Each looks at one thing and says what to do where it is not right."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from wanspec.cli.machine import cores, gpus, memory_bytes
from wanspec.cli.regions import STANDARD_PORTS
from wanspec.errors import ServerError
from wanspec.hardware import processor_name
from wanspec.models import CATALOG, cache_dir, is_ready
from wanspec.network.ports import is_free, reserve_ports
from wanspec.triton.binaries import find_binaries

OK, WARN, FAIL = "ok", "warn", "fail"

NEEDED = ("numpy", "click", "rich", "tritonclient", "opentelemetry-sdk", "tokenizers")
LOCAL = ("nvidia-pytriton", "torch", "transformers", "safetensors", "gguf")
INSTALL = "pip install 'wanspec[local]'"
MEMORY = 6 * 2**30
SHARED_MEMORY = 64 * 2**20
HUB = "huggingface.co"
HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``state``: ok, warn or fail; ``cure``: what to do, empty where nothing needs doing."""

    state: str
    check: str
    found: str
    cure: str = ""


def run_checks(*, online: bool = False) -> list[Finding]:
    """Run all checks; the network is touched only if ``online``."""
    findings = [
        machine(),
        python(),
        *packages(),
        triton(),
        memory(),
        shared_memory(),
        gpu(),
        ports(),
        cache(),
        *models(),
    ]
    return [*findings, hub()] if online else findings


def machine() -> Finding:
    """System and processor: Triton's wheel is for Linux on x86_64."""
    found = f"{platform.system()} {platform.release()} {platform.machine()}, {cores()} cores, {processor_name()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding(FAIL, "machine", found, "servers need Linux x86_64; `wanspec generate` works anywhere")
    if cores() < 2:
        return Finding(WARN, "machine", found, "two regions on one core take turns: timings will mean little")
    return Finding(OK, "machine", found)


def python() -> Finding:
    """Version of the interpreter."""
    found = f"{platform.python_version()}, {sys.executable}"
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding(FAIL, "Python", found, "use Python 3.10 to 3.13: the python backend has stubs for these")
    return Finding(OK, "Python", found)


def packages() -> list[Finding]:
    """Key packages with their versions: what every command needs, and what local servers need."""
    findings = []
    for title, names, cure in (("packages", NEEDED, "pip install wanspec"), ("packages [local]", LOCAL, INSTALL)):
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        findings.append(Finding(FAIL if missing else OK, title, found, cure if missing else ""))
    return findings


def triton() -> Finding:
    """tritonserver, and the python backend's stub for this Python."""
    try:
        binaries = find_binaries()
    except ServerError as error:
        return Finding(FAIL, "tritonserver", "not usable", str(error))
    stub = f"stub for Python {sys.version_info.major}.{sys.version_info.minor}" if binaries.stub else "its own stub"
    return Finding(OK, "tritonserver", f"{binaries.executable}, {stub}")


def memory() -> Finding:
    """Physical memory."""
    size = memory_bytes()
    found = f"{size / 2**30:.1f} GiB"
    if 0 < size < MEMORY:
        return Finding(WARN, "memory", found, "the SmolLM2 pair wants 6 GiB; `wanspec demo --pair small` wants less")
    return Finding(OK, "memory", found)


def shared_memory() -> Finding:
    """Room in /dev/shm, where Triton's python models exchange tensors."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(FAIL, "shared memory", "no /dev/shm", "mount a tmpfs there: the python backend needs it")
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**20:.0f} MiB free in {folder}"
    if free < SHARED_MEMORY:
        return Finding(FAIL, "shared memory", found, "64 MiB are needed; in a container: --shm-size=256m")
    return Finding(OK, "shared memory", found)


def gpu() -> Finding:
    """NVIDIA GPUs; none is needed."""
    found = gpus()
    if found:
        return Finding(OK, "GPU", "; ".join(found))
    return Finding(OK, "GPU", "none found by nvidia-smi; the engines run on the processor")


def ports() -> Finding:
    """Ports of 127.0.0.1: Triton's usual ones, and others."""
    try:
        reserve_ports(6).release()
    except ServerError as error:
        return Finding(FAIL, "ports", "too few are free", str(error))
    taken = [str(port) for port in STANDARD_PORTS.values() if not is_free(port)]
    if taken:
        cure = "`wanspec up` will choose others and say which; `generate` needs --url then"
        return Finding(WARN, "ports", f"in use: {', '.join(taken)}", cure)
    return Finding(OK, "ports", f"{', '.join(map(str, sorted(STANDARD_PORTS.values())))} and others are free")


def cache() -> Finding:
    """The folder for models that are fetched and converted."""
    folder = cache_dir()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if not os.access(existing, os.W_OK):
        return Finding(FAIL, "model cache", found, "cannot be written: set WANSPEC_CACHE to a folder that can")
    wanted = sum(known.disk + 2 * known.download for known in CATALOG.values() if not is_ready(known.name))
    if free < wanted:
        cure = f"{wanted / 1e6:.0f} MB are needed: make room, or set WANSPEC_CACHE to a folder on another disk"
        return Finding(WARN, "model cache", found, cure)
    return Finding(OK, "model cache", found)


def models() -> list[Finding]:
    """Models that have a name, and whether they are ready."""
    findings = []
    for known in CATALOG.values():
        check = f"model {known.name}"
        if is_ready(known.name):
            findings.append(Finding(OK, check, "ready"))
            continue
        cure = f"`wanspec models pull {known.name}` ({known.download / 1e6:.0f} MB); `wanspec demo` does it by itself"
        findings.append(Finding(WARN, check, "not fetched yet", cure))
    return findings


def hub() -> Finding:
    """Whether a model hub can be reached: needed only for hub ids."""
    try:
        socket.create_connection((HUB, 443), timeout=HUB_TIMEOUT_S).close()
    except OSError as error:
        return Finding(WARN, "model hub", f"{HUB}: {error}", "hub ids will not work; named models and folders will")
    return Finding(OK, "model hub", f"{HUB} answers")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
