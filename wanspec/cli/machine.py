"""What this machine is: for ``doctor``, and beside every measured figure."""

from __future__ import annotations

import os
import shutil
import subprocess

from wanspec.hardware import processor_name

NVIDIA_SMI_TIMEOUT_S = 10.0


def describe_machine() -> str:
    """Cores, processor, memory and GPU in a few words."""
    processor = processor_name()
    parts = [f"{cores()} cores" + (f" ({processor})" if processor else "")]
    if memory_bytes():
        parts.append(f"{memory_bytes() / 2**30:.0f} GiB")
    parts.append(", ".join(gpus()) or "no GPU")
    return ", ".join(parts)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def gpus() -> list[str]:
    """NVIDIA GPUs by name and memory, as nvidia-smi lists them; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
