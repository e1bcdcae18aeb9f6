"""Tiny random Llamas: real architecture, milliseconds to build, nothing on disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wanspec.engines.torch_model import TorchModel

VOCAB = 61
CONTEXT = 128


def _build_llama(seed: int, **overrides: object) -> LlamaForCausalLM:
    settings: dict[str, object] = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    settings.update(overrides)
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**settings))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> TorchModel:
    """float64, six query heads on two key heads, context 128."""
    return TorchModel(_build_llama(1).double())


@pytest.fixture(scope="session")
def build_llama() -> Callable[..., LlamaForCausalLM]:
    """Builds another one: a seed, and LlamaConfig fields to override."""
    return _build_llama
