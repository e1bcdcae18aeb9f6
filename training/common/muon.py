"""Muon for matrices (K. Jordan and others, 2024) with AdamW for the rest: momentum whose update is orthogonalised."""

from __future__ import annotations

from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon:
    """Muon at rate ``matrix_rate`` for the two-dimensional ``parameters``, AdamW at ``other_rate`` for the others.

    Parameters called "embed" in their name belong with the others: name them in ``embeddings``.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        matrix_rate: float,
        other_rate: float,
        embeddings: Iterable[torch.nn.Parameter] = (),
        momentum: float = 0.95,
    ) -> None:
        apart = {id(parameter) for parameter in embeddings}
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._matrices = [p for p in trained if p.ndim == 2 and id(p) not in apart]
        self._buffers = [torch.zeros_like(p) for p in self._matrices]
        others = [p for p in trained if p.ndim != 2 or id(p) in apart]
        self._adamw = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.95), weight_decay=0.0)
        self._matrix_rate, self._other_rate, self._momentum = matrix_rate, other_rate, momentum

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Update with the gradients at hand, at ``scale`` times the rates, and clear them."""
        for parameter, buffer in zip(self._matrices, self._buffers, strict=True):
            if parameter.grad is None:
                continue
            buffer.lerp_(parameter.grad, 1 - self._momentum)
            update = orthogonalize(parameter.grad.lerp(buffer, self._momentum))
            rows, columns = parameter.shape
            parameter.add_(update, alpha=-scale * self._matrix_rate * max(1.0, rows / columns) ** 0.5)
            parameter.grad = None
        for group in self._adamw.param_groups:
            group["lr"] = scale * self._other_rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix near U V^T of the singular value decomposition, by five Newton-Schulz steps in bfloat16."""
    a, b, c = _COEFFICIENTS
    x = matrix.to(torch.bfloat16)
    wide = x.shape[0] <= x.shape[1]
    if not wide:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x if wide else x.T
    return result.to(matrix.dtype)
