"""Whether a device can be used, told without PyTorch, whose import takes seconds."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

from wanspec.errors import ConfigError

DRIVER = "libcuda.so.1"


def check_device(option: str, device: str) -> None:
    """Refuse a device that the engines would fail on.

    Raises:
        ConfigError: no such name, PyTorch has no CUDA, or there is no such GPU. ``option`` is its field.
    """
    number = device_number(option, device)
    if number is None:
        return
    if torch_cuda() == "":
        raise ConfigError(
            option, f"{device} needs a CUDA build of PyTorch and this is the CPU build; install that one, or use cpu"
        )
    index, count = number, gpu_count()
    if index >= count:
        found = f"{count} GPUs (cuda:0 to cuda:{count - 1})" if count else "no NVIDIA GPU"
        raise ConfigError(option, f"{device} is not there: the driver shows {found}; see `wanspec doctor`, or use cpu")


def device_number(option: str, device: str) -> int | None:
    """Number of the GPU that a device's name means, whether it is here or not; None for the CPU.

    Raises:
        ConfigError: it is no name of a device. ``option`` is its field.
    """
    matched = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if matched is None:
        raise ConfigError(option, f"{device!r} is not a device; use cpu, cuda or cuda:N, N from 0")
    return None if device == "cpu" else int(matched[1] or 0)


def torch_cuda() -> str | None:
    """The CUDA version of the installed PyTorch; empty for a CPU build, None where that cannot be told."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return None
    # A line such as: cuda: Optional[str] = '12.8', or = None
    matched = re.search(r"^cuda\b[^=\n]*= *(?:None|['\"]([\d.]+)['\"])", text, re.M)
    return None if matched is None else matched[1] or ""


def gpu_count() -> int:
    """NVIDIA GPUs that the driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
