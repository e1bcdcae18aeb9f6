"""GGUF file to ordinary Hugging Face folder, in float32. Run as a program, so that PyTorch stays out of the caller."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from wanspec.errors import ModelError
from wanspec.models import subprocesses
from wanspec.models.progress import ProgressCallback

CONVERT_DEADLINE_S = 900.0
"""Longest conversion in seconds; 20 to 35 are usual for SmolLM2-135M on two cores."""

_NEEDED = ("torch", "transformers", "gguf", "accelerate", "safetensors")


def convert_gguf(gguf: Path, folder: Path, log: Path, on_progress: ProgressCallback) -> None:
    """Write the model, tokenizer and chat template in ``gguf`` to ``folder``; raises ModelError if that fails."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"conversion of {gguf.name} needs {', '.join(missing)}. Run `pip install 'wanspec[local]'`.")
    package_root = str(Path(__file__).resolve().parents[2])
    subprocesses.run(
        [sys.executable, "-m", "wanspec.models.convert", str(gguf), str(folder)],
        purpose=f"conversion of {gguf.name}",
        log=log,
        deadline_s=CONVERT_DEADLINE_S,
        cure="It needs about 2 GB of memory. If that is not the cause, install the versions in constraints.txt.",
        env={"PYTHONPATH": package_root, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        on_tick=lambda: on_progress("converting to a Hugging Face folder, once (20 to 40 s)", None),
    )


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise ModelError(f"{gguf} holds no chat template, which an instruct model needs.")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
