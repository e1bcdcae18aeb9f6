"""Measured costs of engines, kept as files of the cache: ``wanspec calibrate`` writes them, whoever serves finds them.

A file belongs to one engine with one model and one set of settings on one kind of machine. What was measured under
others is never used: its figures would be wrong without a sign of it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wanspec.core.costs import CostModel
from wanspec.engines.config import EngineConfig
from wanspec.errors import ConfigError
from wanspec.hardware import gpu_names, processor_name
from wanspec.models import cache_dir, fingerprint

logger = logging.getLogger(__name__)

ROLES = ("target", "draft", "worker")
"""Engines of a deployment: the target, the local draft beside it, and the worker's draft engine."""


@dataclass(frozen=True, slots=True)
class FoundCosts:
    """The outcome of a search.

    Attributes:
        path: the file, None where there is none for this engine.
        reason: why one of the same model is not used; empty where there is none, or one is.
    """

    path: Path | None
    reason: str = ""


def describe_engine(role: str, config: EngineConfig) -> dict[str, str]:
    """Everything that the costs of an engine depend on, pace included.

    Raises:
        ModelError: the model's folder is incomplete.
    """
    on_gpu = config.device.startswith("cuda")
    pace = config.pace
    return {
        "role": role,
        "model": describe_model(config.model_dir) if config.engine == "torch" else f"zero:{config.vocab_size}",
        "engine": config.engine,
        "dtype": config.dtype,
        "weights": config.weights,
        "device": config.device,
        "threads": str(config.threads),
        "pace_ms": f"{pace.base_ms:g}",
        "pace_per_token_ms": f"{pace.per_token_ms:g}",
        "machine": ", ".join(gpu_names()) if on_gpu else processor_name(),
        "torch": _torch_version(),
    }


def describe_model(folder: str | Path) -> str:
    """Name of a model's folder and the first bytes of what identifies its weights.

    Raises:
        ModelError: the folder is incomplete.
    """
    return f"{Path(folder).name}:{fingerprint(folder).model_id.hex()[:8]}"


def costs_file(engine: Mapping[str, str]) -> Path:
    """Where the costs of an engine, as :func:`describe_engine` gives it, are kept."""
    text = "\n".join(f"{name}={engine[name]}" for name in sorted(engine))
    return _folder() / f"{engine['role']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def store_costs(costs: CostModel) -> Path:
    """Keep costs where :func:`find_costs` looks; return the file.

    Raises:
        ConfigError: the cache cannot be written.
    """
    path = costs_file(costs.engine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(costs.to_json(), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            "cache", f"cannot write {path} ({error}). Set WANSPEC_CACHE to a folder that can be written."
        ) from error
    return path


def find_costs(engine: Mapping[str, str]) -> FoundCosts:
    """Look for the costs of exactly this engine."""
    path = costs_file(engine)
    if path.is_file():
        try:
            load_costs(path, engine)
        except ConfigError as error:
            return FoundCosts(None, str(error))
        return FoundCosts(path)
    others: list[list[str]] = []
    for other in sorted(_folder().glob(f"{engine['role']}-*.json")):
        try:
            measured = load_costs(other).engine
        except ConfigError:
            continue
        if _model_name(measured) == _model_name(engine):
            others.append(_differences(measured, engine))
    if not others:
        return FoundCosts(None)
    nearest = min(others, key=len)
    reason = f"{engine['role']}: calibrated under other settings ({'; '.join(nearest)}): not used"
    logger.warning("%s", reason)
    return FoundCosts(None, reason)


def load_costs(path: str | Path, engine: Mapping[str, str] | None = None) -> CostModel:
    """Read a file that :func:`store_costs` wrote.

    Args:
        path: the file.
        engine: what it must have been measured on; only what is named here is compared. None: anything.

    Raises:
        ConfigError: it cannot be read, is of another version, or was measured on something else. ``path`` is its field.
    """
    try:
        costs = CostModel.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(str(path), f"cannot be used as measured costs: {error}") from error
    differences = _differences(costs.engine, engine or {})
    if differences:
        raise ConfigError(str(path), f"was measured on another engine ({'; '.join(differences)}): calibrate again")
    return costs


def costs_or_none(path: str | Path, engine: Mapping[str, str]) -> CostModel | None:
    """As :func:`load_costs`; None where no file is named, or, with a warning in the log, where it cannot be used."""
    if not str(path):
        return None
    try:
        costs = load_costs(path, engine)
    except ConfigError as error:
        logger.warning("costs are not used: %s", error)
        return None
    logger.info("costs measured on %s: %s", dict(costs.engine), path)
    return costs


def _folder() -> Path:
    return cache_dir() / "costs"


def _differences(measured: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    return [
        f"{name} was {measured.get(name, 'not stated')}, is {value}"
        for name, value in wanted.items()
        if measured.get(name) != value
    ]


def _model_name(engine: Mapping[str, str]) -> str:
    return engine.get("model", "").partition(":")[0]


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"
