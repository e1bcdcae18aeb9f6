"""The draft as a module: our layers on the target's embeddings, loaded from and saved to a folder of layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

EMBEDDINGS = "model.embed_tokens.weight"
_NORM_AT_START = 0.3


def load_draft(target: Path, layers: Path) -> LlamaForCausalLM:
    """Return the draft in float32, its embeddings (and the head tied to them) frozen."""
    tensors = {name: tensor.float() for name, tensor in load_file(layers / "layers.safetensors").items()}
    return _build(LlamaConfig(**json.loads((layers / "config.json").read_text())), tensors, target)


def draft_from_target(target: Path, count: int) -> LlamaForCausalLM:
    """Return a draft that starts as the target's first ``count`` layers. Its predictions are poor until trained."""
    config = LlamaConfig(**{**json.loads((target / "config.json").read_text()), "num_hidden_layers": count})
    tensors = {
        name: tensor
        for name, tensor in load_file(target / "model.safetensors").items()
        if name.startswith("model.layers.") and int(name.split(".")[2]) < count
    }
    # The first layers leave a residual stream that the target's own norm was not made for.
    tensors["model.norm.weight"] = load_file(target / "model.safetensors")["model.norm.weight"] * _NORM_AT_START
    return _build(config, tensors, target)


def save_layers(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json and layers.safetensors (float16) so that ``folder`` always holds a whole pair of files."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {
        name: parameter.detach().to(torch.float16).contiguous()
        for name, parameter in model.named_parameters()
        if name != EMBEDDINGS
    }
    save_file(tensors, partial / "layers.safetensors", metadata={"format": "pt"})
    config = {**model.config.to_dict(), "dtype": "float16"}
    (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    previous = folder.with_name(folder.name + ".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def _build(config: LlamaConfig, tensors: dict[str, torch.Tensor], target: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM(config).float()
    tensors[EMBEDDINGS] = load_file(target / "model.safetensors")[EMBEDDINGS].float()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"layers do not fit their config: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    model.model.embed_tokens.weight.requires_grad_(False)
    return model
