from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import ConfigError, EngineError, ModelError

TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


def random_tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 61, count).tolist()


def test_logits_equal_those_of_transformers(build_llama: Callable[..., LlamaForCausalLM]) -> None:
    """To 1e-5 only: transformers computes norms in float32 whatever the dtype."""
    reference = build_llama(3).double().eval()
    model = TorchModel(build_llama(3).double())
    tokens = random_tokens(100)
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0]
    logits = model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, tokens, 100)])
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_chunks_and_neighbours_change_nothing(model: TorchModel, data: st.DataObject) -> None:
    """Three sequences in chunks of any size, together in one pass, against each alone in one chunk."""
    sequences = [random_tokens(data.draw(st.integers(1, 110)), seed) for seed in range(3)]
    alone = [model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, s, len(s))]) for s in sequences]
    buffers = [KVBuffer(model.kv_shape) for _ in sequences]
    done = [0, 0, 0]
    while any(done[i] < len(s) for i, s in enumerate(sequences)):
        segments, expected = [], []
        for index, tokens in enumerate(sequences):
            start, left = done[index], len(tokens) - done[index]
            if left:
                count = data.draw(st.integers(1, left))
                wanted = data.draw(st.integers(1, count))
                buffers[index].reserve(start + count, keep=start)
                segments.append(append_segment(buffers[index], start, tokens[start : start + count], wanted))
                expected.append(alone[index][start + count - wanted : start + count])
                done[index] += count
        logits = model.forward(segments)
        assert (logits - torch.cat(expected)).abs().max() < 1e-10


@pytest.mark.parametrize(
    "build",
    [
        lambda: Qwen3ForCausalLM(Qwen3Config(**TINY, head_dim=16)),
        lambda: MistralForCausalLM(MistralConfig(**TINY, sliding_window=None)),
    ],
)
def test_other_architectures_work(build: Callable[[], LlamaForCausalLM]) -> None:
    torch.manual_seed(0)
    reference = build().double().eval()
    tokens = random_tokens(90)
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0]
    model = TorchModel(reference)
    buffer = KVBuffer(model.kv_shape, 128)
    parts = [model.forward([append_segment(buffer, start, tokens[start : start + 30], 30)]) for start in (0, 30, 60)]
    assert (torch.cat(parts) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_sliding_windows_are_refused_by_name_and_allowed_within_the_window() -> None:
    settings_ = {**TINY, "sliding_window": 64}
    with pytest.raises(ModelError, match=r"sliding-window attention \(window 64.*max_seq_len to at most 64"):
        TorchModel(MistralForCausalLM(MistralConfig(**settings_)))
    assert TorchModel(MistralForCausalLM(MistralConfig(**settings_)), max_seq_len=64).context == 64


def test_length_dependent_rotary_embeddings_are_refused(build_llama: Callable[..., LlamaForCausalLM]) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ModelError, match="rope_type 'dynamic'"):
        TorchModel(build_llama(0, rope_parameters=rope))


def test_learned_positions_work_or_are_refused() -> None:
    """GPT-2 has no rotary embedding: its positions still arrive explicitly."""
    torch.manual_seed(0)
    reference = (
        GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=128, n_embd=48, n_layer=2, n_head=4)).double().eval()
    )
    tokens = random_tokens(20)
    with torch.inference_mode():
        expected = reference(torch.tensor([tokens])).logits[0]
    model = TorchModel(reference)
    logits = model.forward([append_segment(KVBuffer(model.kv_shape, 128), 0, tokens, 20)])
    assert (logits - expected).abs().max() < 1e-5


def test_buffers_grow_and_stop_at_the_context(model: TorchModel) -> None:
    buffer = KVBuffer(model.kv_shape, 4)
    buffer.keys[:, :, :4] = 1.0
    buffer.reserve(5, keep=4)
    assert buffer.capacity == 64
    assert buffer.keys[:, :, :4].eq(1.0).all()
    assert buffer.keys[:, :, 4:].eq(0.0).all()
    buffer.reserve(128, keep=4)
    with pytest.raises(EngineError, match="129 tokens asked for, the buffer's limit is 128"):
        buffer.reserve(129, keep=4)


def test_folders_load_in_each_dtype(tmp_path: Path, build_llama: Callable[..., LlamaForCausalLM]) -> None:
    build_llama(0).save_pretrained(tmp_path)
    for name in ("float32", "float64", "bfloat16"):
        model = TorchModel.load(tmp_path, dtype=name, max_seq_len=100)
        assert (str(model.dtype), model.context, model.vocab_size) == (f"torch.{name}", 100, 61)


def test_unusable_folders_and_dtypes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        TorchModel.load(tmp_path)
    with pytest.raises(ConfigError, match="dtype: 'int3' is unknown"):
        TorchModel.load(tmp_path, dtype="int3")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded as a causal LM"):
        TorchModel.load(tmp_path)
