"""The two shapes of the small pair, and how they are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.small.tokenize import CONTEXT, VOCABULARY

SHAPES = {
    "target": {"num_hidden_layers": 8, "hidden_size": 256, "intermediate_size": 704},
    "draft": {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 384},
}
"""Layers, width and width of the feed-forward part."""


def new_model(shape: str) -> LlamaForCausalLM:
    """Return an untrained model of one of SHAPES, in float32."""
    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=VOCABULARY,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).float()


def save(model: LlamaForCausalLM, tokenizer: Path, folder: Path) -> None:
    """Write a Hugging Face folder in float16, with the files of ``tokenizer``."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(tokenizer, partial)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.float16).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
