"""Finds TensorRT-LLM's executor, and what it needs of an engine's folder."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from wanspec.errors import ConfigError

VERSION = "1.2.1"
"""Of TensorRT-LLM: the last line that has engines and their executor."""

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
_CURE = f"serve the worker in the image {IMAGE}, or let it draft with PyTorch (engine: torch)"
_MODULE = "tensorrt_llm.bindings.executor"


def load_bindings() -> ModuleType:
    """Import TensorRT-LLM's executor.

    Raises:
        ConfigError: it is not installed, does not load, or is a version without it.
    """
    if importlib.util.find_spec("tensorrt_llm") is None:
        raise ConfigError("engine", f"tensorrt_llm is chosen, and TensorRT-LLM is not installed here; {_CURE}")
    try:
        package = importlib.import_module("tensorrt_llm")  # loads the libraries that the bindings need
        module = importlib.import_module(_MODULE)
    except Exception as error:  # a missing library, driver or MPI: each in its own way
        raise ConfigError(
            "engine", f"TensorRT-LLM is installed but does not load ({type(error).__name__}: {error}); {_CURE}"
        ) from error
    found = str(getattr(package, "__version__", "unknown"))
    if not found.startswith("1.2.") or not hasattr(module, "Executor"):
        raise ConfigError(
            "engine", f"TensorRT-LLM {found} is installed, and the engines' executor is that of {VERSION}; {_CURE}"
        )
    return module


def built_with(engine_dir: str) -> dict[str, Any]:
    """What an engine was built with: ``build_config`` of its config.json.

    Raises:
        ConfigError: there is no engine.
    """
    path = Path(engine_dir) / "config.json"
    if not engine_dir:
        raise ConfigError("engine_dir", "is not set: give the folder of the draft's engine")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "engine_dir", f"{engine_dir} is no folder of trtllm-build: {path.name}: {error.strerror}"
        ) from None
    except ValueError as error:
        raise ConfigError("engine_dir", f"{path} is not JSON: {error}") from None
    build = content.get("build_config") if isinstance(content, dict) else None
    return build if isinstance(build, dict) else {}


def device_ids(device: str) -> list[int] | None:
    """The GPU that a device's name means; None for whichever comes first.

    Raises:
        ConfigError: it means none.
    """
    matched = re.fullmatch(r"cuda(?::(\d+))?", device)
    if matched is None:
        raise ConfigError("device", f"{device!r} is no GPU, which TensorRT-LLM needs; use cuda or cuda:N")
    return None if matched[1] is None else [int(matched[1])]
