"""The best next tokens of each row of logits."""

from __future__ import annotations

import torch


def top_tokens(logits: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rank the next tokens; equal logits rank by the lower id.

    Args:
        logits: ``[rows, vocab]``.
        top: how many to return.

    Returns:
        ids int64 ``[rows, top]``, natural log-probabilities ``[rows, top]`` and entropies ``[rows]`` (nats), the latter
        two in float32, or in float64 where the logits are.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = wide.log_softmax(dim=-1)
    entropies = -(log_probs.exp() * log_probs).sum(dim=-1)
    # One more than wanted shows a tie at the boundary.
    values, ids = wide.topk(min(top + 1, wide.shape[1]), dim=-1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=-1)
    ids = ids[:, :top]
    if bool(tied.any()):
        ids[tied] = wide[tied].sort(dim=-1, descending=True, stable=True).indices[:, :top]
    return ids, log_probs.gather(-1, ids), entropies
