"""GPUs by name: memory and architecture, and what the driver says is there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from wanspec.errors import ConfigError

GIB = 1 << 30
_DEADLINE_S = 30.0
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
_MEMORY_SHARE = 0.97
"""Of the named memory that a GPU must have: drivers tell slightly different totals."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU. ``memory``: usable, bytes, as drivers tell it. ``capability``: major * 10 + minor."""

    name: str
    memory: int
    capability: int

    @property
    def fp8(self) -> bool:
        """Whether it computes in FP8: Ada and later."""
        return self.capability >= 89


def _gpu(name: str, mib: int, capability: int) -> Gpu:
    return Gpu(name, mib << 20, capability)


GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("A10G-24GB", 23_028, 86),
        _gpu("A100-40GB", 40_960, 80),
        _gpu("A100-80GB", 81_920, 80),
        _gpu("L4-24GB", 23_034, 89),
        _gpu("L40S-48GB", 46_068, 89),
        _gpu("H100-80GB", 81_559, 90),
        _gpu("H200-141GB", 143_771, 90),
        _gpu("B200-180GB", 183_359, 100),
    )
}
"""Names that a recipe may use."""


def installed() -> list[Gpu]:
    """What ``nvidia-smi`` lists.

    Raises:
        ConfigError: it is not there, fails, or answers something else.
    """
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_DEADLINE_S, check=True)
    except FileNotFoundError:
        hint = "no NVIDIA driver, or a container without --gpus all"
        raise ConfigError("gpu", f"nvidia-smi is not there: {hint}") from None
    except (subprocess.SubprocessError, OSError) as error:
        raise ConfigError("gpu", f"nvidia-smi failed: {error}") from None
    try:
        return [_listed(line) for line in done.stdout.splitlines() if line.strip()]
    except ValueError:
        raise ConfigError("gpu", f"nvidia-smi answered {done.stdout.strip()[:200]!r}") from None


def check_installed(wanted: Gpu, count: int) -> None:
    """Compare this machine's GPUs with those that a recipe names.

    Raises:
        ConfigError: too few, of another architecture, or with less memory.
    """
    found = installed()
    if len(found) < count:
        raise ConfigError("gpu.count", f"{count} are needed, nvidia-smi lists {len(found)}")
    for gpu in found[:count]:
        if gpu.capability != wanted.capability:
            raise ConfigError(
                "gpu.name",
                f"engines run on the architecture they are built on: {wanted.name} is {_dotted(wanted.capability)}, "
                f"this machine has {gpu.name} ({_dotted(gpu.capability)})",
            )
        if gpu.memory < wanted.memory * _MEMORY_SHARE:
            raise ConfigError(
                "gpu.name", f"{wanted.name} has {wanted.memory / GIB:.1f} GiB, {gpu.name} here {gpu.memory / GIB:.1f}"
            )


def _listed(line: str) -> Gpu:
    name, mib, capability = (part.strip() for part in line.rsplit(",", 2))
    major, minor = capability.split(".")
    return Gpu(name, int(mib) << 20, int(major) * 10 + int(minor))


def _dotted(capability: int) -> str:
    return f"compute capability {capability // 10}.{capability % 10}"
