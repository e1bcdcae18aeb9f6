"""Checks of a local Hugging Face folder before anything slow starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wanspec.errors import ModelError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def check_folder(folder: Path) -> Path:
    """Return ``folder`` if config, weights and tokenizer.json are in it; raises ModelError with what is missing."""
    if not folder.is_dir():
        raise ModelError(f"model: {folder} is not a folder.")
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not weight_files(folder):
        missing.append("weights (*.safetensors or pytorch_model*.bin)")
    if not (folder / "tokenizer.json").is_file():
        missing.append("tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one)")
    if missing:
        raise ModelError(f"model: {folder} is no complete Hugging Face folder; missing: {', '.join(missing)}.")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in ``folder``, sorted by name."""
    return sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; raises ModelError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"model: cannot read {path} ({error.strerror}).") from error
    except ValueError as error:
        raise ModelError(f"model: {path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"model: {path} holds no JSON object.")
    return content
