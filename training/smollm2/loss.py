"""Cross-entropy to the teacher's best 16 tokens plus one bucket for the rest, without the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Outcome:
    """``loss``: mean over positions, in nats. ``match``: share of positions where the draft's best is the teacher's."""

    loss: torch.Tensor
    match: float


def sampled_distillation(
    hidden: torch.Tensor,
    embeddings: torch.Tensor,
    top_ids: torch.Tensor,
    top_log_probs: torch.Tensor,
    negatives: int,
    generator: torch.Generator,
) -> Outcome:
    """Return the loss of ``hidden`` [m, width] against the teacher's ``top_ids``, ``top_log_probs`` [m, 16].

    The softmax runs over the candidates of the whole batch and ``negatives`` random rows of ``embeddings``
    [vocabulary, width], which stand, with a weight, for all rows left out.
    """
    candidates, columns = top_ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    left_out = torch.ones(len(embeddings), dtype=torch.bool)
    left_out[candidates] = False
    pool = left_out.nonzero()[:, 0]
    drawn = pool[torch.randperm(len(pool), generator=generator)[:negatives]]
    rows = torch.cat((candidates, drawn))
    logits = (hidden @ embeddings[rows].to(hidden.dtype).T).float()
    weights = torch.zeros(len(rows))
    weights[len(candidates) :] = (torch.tensor(float(len(pool))) / max(len(drawn), 1)).log()
    log_total = (logits + weights).logsumexp(dim=-1)

    draft = logits.gather(1, columns) - log_total[:, None]
    teacher = top_log_probs.exp()
    teacher_rest = (1 - teacher.sum(dim=-1)).clamp_min(0)
    # The draft's share of everything but the 16; bounded away from 0 so that its logarithm stays finite.
    draft_rest = (1 - draft.exp().sum(dim=-1)).clamp_min(1e-5)
    loss = -((teacher * draft).sum(dim=-1) + teacher_rest * draft_rest.log()).mean()
    best = rows[logits.detach().argmax(dim=-1)]
    return Outcome(loss, (best == top_ids[:, 0]).float().mean().item())
