"""Linear layers with weights in oneDNN's blocked layout, for float32 on a CPU.

PyTorch's own float32 linear re-packs a weight in every call, so that verifying three tokens costs twice what one does.
Packed once, a step of up to some 16 rows costs about one pass over the weights: what a GPU's does, and speculative
decoding needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import nn

logger = logging.getLogger(__name__)

_ROWS = 16
_SMALLEST = 1 << 18  # weights below this stay in the processor's cache, where packing gains nothing
_TOLERANCE = 1e-3


def pack_linears(model: nn.Module) -> int:
    """Pack the large ``nn.Linear`` of a float32 CPU model; return how many were packed (0 where oneDNN cannot).

    The packed copy replaces the weight, except where another module shares it (a tied embedding).
    """
    if not _available():
        return 0
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    packed = 0
    for module in model.modules():
        if type(module) is nn.Linear and _worth_it(module.weight):
            shared = owners[id(module.weight)] > 1
            module.forward = _packed_forward(module)  # type: ignore[method-assign,assignment]
            packed += 1
            if not shared:
                module.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    logger.debug("packed %d linear layers", packed)
    return packed


def _worth_it(weight: torch.Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.device.type == "cpu" and weight.numel() >= _SMALLEST


def _packed_forward(module: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), _ROWS)
    bias, linear = module.bias, torch.ops.mkldnn._linear_pointwise

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = linear(hidden_states, weight, bias, "none", [], "")
        return output

    return forward


def _available() -> bool:
    """Whether the operators are there and compute the right thing: they are PyTorch's, but not its public API."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    layer = nn.Linear(24, 40)
    sample = torch.linspace(-1.0, 1.0, 72).reshape(1, 3, 24)
    try:
        with torch.inference_mode():
            difference = (_packed_forward(layer)(sample) - layer(sample)).abs().max().item()
    except (AttributeError, RuntimeError) as error:
        logger.warning("linear layers stay as they are: %s", error)
        return False
    return bool(difference < _TOLERANCE)
