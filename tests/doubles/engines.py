"""Folders of engines for the double of TensorRT-LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOUBLES = Path(__file__).parent
"""To be first in the path of whoever imports tensorrt_llm."""


def write_engine(folder: Path, model_dir: Path, columns: int, **build: Any) -> Path:
    """An engine of a model, whose logits are padded to ``columns``; ``build`` is what it was built with."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"version": "1.2.1", "build_config": build}))
    double = {"model_dir": str(model_dir), "dtype": "float64", "columns": columns}
    (folder / "double.json").write_text(json.dumps(double))
    return folder
