"""Folders without real weights, a recipe for them, and stand-ins for TensorRT-LLM's tools on PATH."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 256,
    "vocab_size": 16,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
RECIPE = """\
name: tiny
gpu: {{name: H100-80GB, count: 2}}
context: 512
max_draft_len: 4
target:
  model: {target}
  family: llama
  quantization: fp8
  kv_cache: fp8
  tensor_parallel: 2
  max_batch_size: 2
draft:
  model: {draft}
  family: llama
  max_batch_size: 2
  tokens_per_block: 16
"""
TOOL = """\
#!/bin/sh
# Stands for a tool of TensorRT-LLM: notes its arguments and makes its output.
if [ "$1" = "-c" ]; then echo "${FAKE_VERSION:-1.2.1} 10.14.1.48"; exit 0; fi
tool=$(basename "$0")
case "$1" in *.py) tool=$(basename "$1"); shift ;; esac
for argument in "$@"; do
  case "$argument" in --output_dir=*) output=${argument#--output_dir=} ;; esac
done
name=$(basename "$(dirname "$output")").$(basename "$output")
for argument in "$tool" "$@"; do printf '%s\\037' "$argument"; done >> "$FAKE_CALLS"
echo >> "$FAKE_CALLS"
echo "working on $name"
if [ "$name" = "$FAKE_FAILS" ]; then mkdir -p "$output"; echo half > "$output/half"; echo "no kernel found"; exit 3; fi
if [ "$name" = "$FAKE_HANGS" ]; then mkdir -p "$output"; sleep 300 & echo $! > "$FAKE_CALLS.child"; wait; fi
if [ "$name" = "$FAKE_IDLE" ]; then exit 0; fi
mkdir -p "$output"
echo "$name" > "$output/rank0.engine"
"""
SMI = """\
#!/bin/sh
for gpu in 1 2; do echo "${FAKE_GPU:-NVIDIA H100 80GB HBM3, 81559, 9.0}"; done
"""


def write_folder(
    folder: Path, *, tokens: int = 12, shape: dict[str, Any] | None = None, model_type: str = "llama", **tokenizer: Any
) -> Path:
    """A Hugging Face folder with ``tokens`` token ids."""
    folder.mkdir(parents=True)
    vocabulary = {chr(ord("a") + number): number for number in range(tokens)}
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocabulary, "merges": []}, "added_tokens": []})
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a", **tokenizer}))
    config = {**SHAPE, **(shape or {}), "model_type": model_type, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(folder.name.encode() * 100)
    return folder


class Tools:
    """Stand-ins for the tools; ``environment`` steers them."""

    def __init__(self, folder: Path, set_environment: Callable[[str, str], None]) -> None:
        self.bin = folder / "bin"
        self.examples = folder / "examples"
        self._calls = folder / "calls"
        self._set = set_environment
        self.bin.mkdir()
        for name, text in (("trtllm-build", TOOL), ("python-trtllm", TOOL), ("nvidia-smi", SMI)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        for script in ("models/core/llama/convert_checkpoint.py", "quantization/quantize.py"):
            (self.examples / script).parent.mkdir(parents=True)
            (self.examples / script).write_text("")
        self._set("PATH", f"{self.bin}{os.pathsep}{os.environ['PATH']}")
        self._set("FAKE_CALLS", str(self._calls))
        for name in ("FAILS", "HANGS", "IDLE"):
            self.steer(name, "")

    def steer(self, name: str, value: str) -> None:
        """``FAILS``, ``HANGS``, ``IDLE``: at ``role.step``; ``VERSION``; ``GPU``."""
        self._set(f"FAKE_{name}", value)

    def calls(self) -> list[list[str]]:
        """Argument lists since the last look, each with the tool's name first."""
        if not self._calls.exists():
            return []
        text = self._calls.read_text()
        self._calls.unlink()
        return [line.split("\037")[:-1] for line in text.splitlines()]

    @property
    def child(self) -> int:
        """Process that a hanging tool has started."""
        return int(Path(f"{self._calls}.child").read_text())

    def options(self, output: Path) -> list[str]:
        """Of the command line."""
        python = str(self.bin / "python-trtllm")
        return ["--output", str(output), "--examples", str(self.examples), "--python", python]
