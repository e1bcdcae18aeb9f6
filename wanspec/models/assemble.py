"""The draft of SmolLM2: the target's own embeddings and tied head around our distilled layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from wanspec.errors import ModelError

EMBEDDINGS = "model.embed_tokens.weight"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def assemble_draft(target: Path, layers: Path, folder: Path) -> None:
    """Write an ordinary float32 Hugging Face folder of the draft to ``folder``.

    ``target`` is the converted target's folder, ``layers`` holds config.json and layers.safetensors (float16: layers
    and final norm, no embeddings). Raises ModelError if the two do not fit.
    """
    try:
        import numpy as np
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file
    except ImportError as error:
        raise ModelError("assembling the draft needs safetensors. Run `pip install 'wanspec[local]'`.") from error

    config = json.loads((layers / "config.json").read_text())
    with safe_open(target / "model.safetensors", framework="np") as weights:
        embeddings = weights.get_tensor(EMBEDDINGS)
    wanted = (config["vocab_size"], config["hidden_size"])
    if embeddings.shape != wanted:
        raise ModelError(f"{target}: {EMBEDDINGS} is {embeddings.shape}, the draft in {layers} needs {wanted}.")
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(layers / "layers.safetensors").items()}
    tensors[EMBEDDINGS] = embeddings.astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in _TOKENIZER_FILES:
        if (target / name).is_file():
            shutil.copyfile(target / name, folder / name)
