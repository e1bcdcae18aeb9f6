"""Drafting for a target that samples: the same noise on both sides, and what that says of a draft's chances."""

from __future__ import annotations

from dataclasses import replace
from math import exp

from wanspec.core.config import SamplingMode
from wanspec.core.messages import Drafting, Open
from wanspec.core.sampling import GREEDY, Sampling

_MISSED_AT_NO_MARGIN = 0.62
_LEAST_ACCEPTANCE = 1e-6


def draft_sampling(sampling: Sampling, mode: SamplingMode) -> Sampling:
    """How drafts are drawn for a target that draws by ``sampling``: with its noise, or else greedily."""
    return GREEDY if mode == SamplingMode.TENSORRT_LLM or sampling.greedy else sampling


def drafting_for(drafting: Drafting, sampling: Sampling) -> Drafting:
    """What the worker is told: the policy's numbers, and how to draw."""
    if sampling.greedy:
        return drafting
    return replace(
        drafting,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
    )


def sampling_of(opened: Open) -> Sampling | None:
    """How the target draws; None where it is greedy.

    Raises:
        InvalidRequestError: the numbers make no sense.
    """
    drafting = opened.drafting
    sampling = Sampling(drafting.temperature, drafting.top_k, drafting.top_p, drafting.seed)
    return None if sampling.greedy else sampling


def coupled_acceptance(margin: float, rank: int) -> float:
    """Estimate how probable it is that a target draws the draft's child of this rank, both with the same noise.

    Measured on the small pair over 3,600 positions at four settings (temperature 0.7 and 1, with and without top-k and
    top-p), the first child is missed with about 0.62 exp(-margin), whatever the setting; each further child is drawn in
    half of what is left. The child's own probability says nothing here: at temperature 1 the accepted have 0.01 each.

    Args:
        margin: how far the first child's perturbed score is ahead of the second's.
        rank: of the child, 0 for the first.
    """
    missed = _MISSED_AT_NO_MARGIN * exp(-max(0.0, margin))
    return 1.0 - missed if rank == 0 else max(missed * 0.5**rank, _LEAST_ACCEPTANCE)
