"""The compatibility profile: our models by the names that NVIDIA's example clients use: docs/compatibility.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wanspec.triton.repository import Value, region_folder

TARGET, DRAFT = "tensorrt_llm", "tensorrt_llm_draft"
PREPROCESSING, POSTPROCESSING, ENSEMBLE = "preprocessing", "postprocessing", "ensemble"

_TEMPLATES = {
    TARGET: ("controller", "target"),
    DRAFT: ("controller", "draft"),
    **{name: ("compat", name) for name in (PREPROCESSING, POSTPROCESSING, ENSEMBLE)},
}


def templates(models: Iterable[str]) -> dict[str, Path]:
    """Folders in ``model_repo``, by name, of those models that belong to the profile.

    Raises:
        ConfigError: ``model_repo`` has no folder of the profile.
    """
    found = {name: _TEMPLATES[name] for name in models if name in _TEMPLATES}
    return {name: region_folder(region) / folder for name, (region, folder) in found.items()}


def preprocessing(folder: Path, vocab_size: Value, max_batch_size: int) -> dict[str, Value]:
    """Values of ``preprocessing`` for the model in ``folder``; ``vocab_size``: columns of its logits."""
    return {"max_batch_size": max_batch_size, "tokenizer_dir": str(folder), "vocab_size": vocab_size}


def text_models(folder: Path, vocab_size: Value, max_batch_size: int) -> dict[str, dict[str, Value]]:
    """Values of the models around ``tensorrt_llm``, by name, for the model in ``folder``."""
    return {
        PREPROCESSING: preprocessing(folder, vocab_size, max_batch_size),
        POSTPROCESSING: {"max_batch_size": max_batch_size, "tokenizer_dir": str(folder)},
        ENSEMBLE: {"max_batch_size": max_batch_size},
    }
