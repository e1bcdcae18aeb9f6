"""Linear layers with int8 weights: a quarter of float32's memory, for activations of any type, on a CPU or a GPU.

Only weights are quantised, symmetrically, with one scale for each output row (as LLM.int8's vector-wise weights,
arXiv 2208.07339, but with activations as they are). So a row of activations depends on no other row: a sequence's
tokens do not depend on its neighbours in the batch beyond what the matrix product's own order of additions does.
Weights are made whole again at use, a block at a time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_BLOCK = 1 << 18  # weights made whole at once on a CPU: about what its second-level cache holds
_LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer whose weight is ``int8 [out, in]`` times a scale ``[out]``."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        whole = linear.weight.detach()
        wide = whole.double()
        scale = wide.abs().amax(dim=1) / _LARGEST
        scale[scale == 0.0] = 1.0  # a row of zeros
        self.register_buffer("weight", (wide / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(whole.dtype))
        self.bias = linear.bias
        rows = len(whole) if whole.device.type != "cpu" else max(1, _BLOCK // whole.shape[1])
        self._blocks = [slice(start, start + rows) for start in range(0, len(whole), rows)]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return ``[..., out]`` for ``[..., in]``, in the activations' type."""
        kind = hidden_states.dtype
        parts = [functional.linear(hidden_states, self.weight[block].to(kind)) for block in self._blocks]
        output = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)) * self.scale
        return output if self.bias is None else output + self.bias


def quantize_linears(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Replace every ``nn.Linear`` but ``keep`` (the output head) by an :class:`Int8Linear`; return how many."""
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not keep:
                setattr(parent, name, Int8Linear(child))
                replaced += 1
    return replaced
