"""The best next tokens of each row of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.core.sampling import GREEDY, ranked


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


def expansion_of(logits: torch.Tensor, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
    """Rank the children of each leaf of a batch; a row of ``[leaves, vocab]`` each. The engine time is left at 0."""
    if all_greedy(batch):
        ids, log_probs, entropies = top_tokens(logits, top)
        return Expansion(
            ids.cpu().numpy().astype(np.int32),
            log_probs.float().cpu().numpy(),
            entropies.float().cpu().numpy(),
            0.0,
        )
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return rank_children(wide.cpu().numpy(), batch, top)


def all_greedy(batch: Sequence[SequenceLeaves]) -> bool:
    """Whether no target of the batch draws its tokens: then probabilities are all that is wanted."""
    return all(sequence.sampling is None or sequence.sampling.greedy for sequence in batch)


def rank_children(logits: NDArray[Any], batch: Sequence[SequenceLeaves], top: int) -> Expansion:
    """Rank the children of each leaf as its sequence's sampling wants it; a row of ``[leaves, vocab]`` each.

    The engine time is left at 0.
    """
    tokens = np.empty((len(logits), top), dtype=np.int32)
    log_probs = np.empty((len(logits), top), dtype=np.float32)
    entropies = np.empty(len(logits), dtype=np.float32)
    margins = np.empty(len(logits), dtype=np.float32)
    places = ((sequence, path) for sequence in batch for path in sequence.leaves)
    for row, (sequence, path) in enumerate(places):
        position = sequence.length + len(path)
        # Two at least, for the margin.
        best = ranked(logits[row], sequence.sampling or GREEDY, position, max(top, 2))
        tokens[row], log_probs[row] = best.ids[:top], best.log_probs[:top]
        entropies[row] = best.entropy
        margins[row] = best.scores[0] - best.scores[1]
    return Expansion(tokens, log_probs, entropies, 0.0, margins)
