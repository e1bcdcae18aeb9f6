"""Packed linear layers compute what the plain ones do, and leave shared weights alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from wanspec.engines.packed_linear import pack_linears


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1024, 512)
        self.inner = nn.Linear(512, 512)
        self.small = nn.Linear(512, 16)
        self.head = nn.Linear(512, 1024, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(self.embedding(tokens))
        return self.head(hidden) + self.small(hidden).sum(-1, keepdim=True)


@pytest.mark.parametrize("rows", [1, 2, 3, 17, 130])
@torch.inference_mode()
def test_packed_equals_plain(rows: int) -> None:
    torch.manual_seed(rows)
    plain = Tied().requires_grad_(False)
    packed = copy.deepcopy(plain)
    assert pack_linears(packed) == 2
    tokens = torch.randint(0, 1024, (1, rows))
    torch.testing.assert_close(packed(tokens), plain(tokens), rtol=1e-4, atol=1e-4)
    assert torch.equal(packed.embedding.weight, plain.embedding.weight)
    assert packed.inner.weight.numel() == 0, "the plain copy of a packed weight is not kept"


def test_float64_is_left_alone() -> None:
    model = Tied().double()
    assert pack_linears(model) == 0
