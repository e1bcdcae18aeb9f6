from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from wanspec.engines import int8_linear
from wanspec.engines.contract import GenerationRequest, GenerationResult
from wanspec.engines.generation import TorchEngine
from wanspec.engines.int8_linear import Int8Linear, quantize_linears
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import ConfigError


def a_layer(inputs: int = 96, outputs: int = 40, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight[3] *= 1000.0  # a scale of the whole matrix would lose all the other rows
        layer.weight[5] = 0.0
    return layer.requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("block", [1, 100, 1 << 18])
def test_each_output_errs_by_half_a_step_of_its_own_row_at_most(
    monkeypatch: pytest.MonkeyPatch, block: int, bias: bool
) -> None:
    monkeypatch.setattr(int8_linear, "_BLOCK", block)
    layer = a_layer(bias=bias)
    inputs = torch.randn(7, 96)
    error = (Int8Linear(layer)(inputs) - layer(inputs)).abs()
    half_step = layer.weight.abs().amax(dim=1) / 127 / 2
    bound = inputs.abs().sum(dim=1, keepdim=True) * half_step * 1.001 + 1e-6
    assert (error <= bound).all()
    assert error[:, :3].max() > 1e-4, "it is quantised"
    assert (error[:, 5] < 1e-6).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: torch.dtype) -> None:
    """Neighbours a thousand times as large would take all of an activation scale that the batch shares."""
    quantised = Int8Linear(a_layer().to(kind))
    rows = torch.randn(9, 96).to(kind)
    alone = torch.cat([quantised(row[None]) for row in rows])
    rows_and_large_ones = torch.cat([rows, 1000 * torch.randn(23, 96).to(kind)])
    together = quantised(rows_and_large_ones)[:9]
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2}[kind]
    assert (alone - together).abs().max() <= tolerance * alone.abs().max()
    assert (alone.dtype, quantised.weight.dtype) == (kind, torch.int8)


def test_all_linear_layers_but_the_output_head_are_replaced(build_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = build_llama(1)
    assert quantize_linears(model, model.get_output_embeddings()) == 14
    assert [name for name, each in model.named_modules() if type(each) is nn.Linear] == ["lm_head"]
    assert isinstance(model.model.layers[1].mlp.down_proj, Int8Linear)


def logits(model: TorchModel, tokens: list[int]) -> torch.Tensor:
    return model.forward([append_segment(KVBuffer(model.kv_shape, len(tokens)), 0, tokens, len(tokens))])


def test_a_model_of_int8_weights_is_near_the_whole_one(build_llama: Callable[..., LlamaForCausalLM]) -> None:
    tokens = np.random.default_rng(0).integers(0, 61, 100).tolist()
    whole = logits(TorchModel(build_llama(1)), tokens)
    quantised = logits(TorchModel(build_llama(1), weights="int8"), tokens)
    assert 1e-5 < (whole - quantised).norm() / whole.norm() < 0.05


def test_the_contracts_engine_answers_with_it(build_llama: Callable[..., LlamaForCausalLM]) -> None:
    """Drafts and neighbours change nothing, as with whole weights."""
    engine = TorchEngine(TorchModel(build_llama(1).double(), weights="int8"), max_draft_len=4)
    prompts = [np.random.default_rng(seed).integers(0, 61, 20).astype(np.int32) for seed in range(4)]

    def answers(requests: list[GenerationRequest]) -> list[list[int]]:
        results = engine.generate(requests)
        assert all(isinstance(result, GenerationResult) for result in results), results
        return [result.output_ids.tolist() for result in results]

    alone = [answers([GenerationRequest(prompt, 5)])[0] for prompt in prompts]
    assert answers([GenerationRequest(prompt, 5) for prompt in prompts]) == alone
    verified = [
        GenerationRequest(prompt, 5, np.array(output[:4], dtype=np.int32))
        for prompt, output in zip(prompts, alone, strict=True)
    ]
    assert answers(verified) == alone


def test_what_cannot_be_int8_is_refused_by_name(build_llama: Callable[..., LlamaForCausalLM]) -> None:
    with pytest.raises(ConfigError, match="weights: 'int4' is unknown"):
        TorchModel(build_llama(1), weights="int4")
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=64, n_embd=48, n_layer=2, n_head=4))
    with pytest.raises(ConfigError, match=r"weights: gpt2 has no layer of torch\.nn\.Linear"):
        TorchModel(gpt2, weights="int8")
