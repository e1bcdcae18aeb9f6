"""What a measurement ran on: processor and GPUs by name, told without PyTorch."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

_DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")


def processor_name() -> str:
    """As the system calls it; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(_values(lines, "model name"), platform.machine())


def gpu_names() -> list[str]:
    """NVIDIA GPUs by model, as the driver lists them; empty without it."""
    found = []
    for file in sorted(_DRIVER_GPUS.glob("*/information")):
        try:
            found += list(_values(file.read_text().splitlines(), "Model"))
        except OSError:
            continue
    return found


def _values(lines: list[str], name: str) -> Iterator[str]:
    return (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name)
