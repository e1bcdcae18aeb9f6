"""Checks of the machine before hours are spent: tools, versions, GPUs, room on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from build_engines import gpus
from build_engines.flags import VERSION
from build_engines.manifest import Versions
from build_engines.plan import Plan
from wanspec.errors import ConfigError

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
"""The image whose TensorRT-LLM the engines must be built with: the same that serves them."""

_DEADLINE_S = 120.0
_PROGRAM = "from importlib.metadata import version as v; print(v('tensorrt_llm'), v('tensorrt'))"


def check(plan: Plan) -> Versions:
    """Compare this machine with what a plan needs.

    Raises:
        ConfigError: something is missing; says what, and what is there.
    """
    check_folder(plan.layout.output)
    versions = _versions(plan)
    _check_tools(plan)
    gpus.check_installed(plan.recipe.gpu.kind, plan.gpus)
    return versions


def check_folder(folder: Path) -> None:
    """Make the folder of the engines.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("output", f"cannot make {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError("output", f"{folder} cannot be written; choose another folder")


def check_room(folder: Path, needed: int) -> None:
    """Compare the free room on the disk with what the steps ahead will take, bytes.

    Raises:
        ConfigError: there is less.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            "output", f"{folder} has {free / 1e9:.0f} GB free, the steps ahead take about {needed / 1e9:.0f} GB"
        )


def _versions(plan: Plan) -> Versions:
    python = plan.layout.python
    try:
        done = subprocess.run([python, "-c", _PROGRAM], capture_output=True, text=True, timeout=_DEADLINE_S, check=True)
        found, tensorrt = done.stdout.split()
    except FileNotFoundError:
        raise ConfigError("python", f"{python} is not there") from None
    except (subprocess.SubprocessError, OSError, ValueError):
        raise ConfigError(
            "tensorrt_llm", f"is not installed for {python}; build in the image that will serve: {IMAGE}"
        ) from None
    if found.split(".")[:2] != VERSION.split("."):
        raise ConfigError(
            "tensorrt_llm", f"{found} is installed, the flags here are those of {VERSION}; use {IMAGE} (1.2.1)"
        )
    return Versions(found, tensorrt, plan.recipe.gpu.name)


def _check_tools(plan: Plan) -> None:
    for step in plan.steps:
        if not step.argv:
            continue
        tool, script = step.argv[0], step.argv[1]
        if shutil.which(tool) is None:
            raise ConfigError("PATH", f"{tool} is not there; build in the image that will serve: {IMAGE}")
        if script.endswith(".py") and not Path(script).is_file():
            raise ConfigError("examples", f"{script} does not exist; give TensorRT-LLM's examples folder")
