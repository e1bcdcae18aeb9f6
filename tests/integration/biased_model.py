"""The Triton model ``target`` with a bias planted in its sampler: 2% of the draws are the least probable token left."""

from __future__ import annotations

import numpy as np

from wanspec.core.sampling import filtered
from wanspec.engines import choosing
from wanspec.triton.engine_model import TritonPythonModel

__all__ = ["TritonPythonModel"]

EVERY = 50

_sound = choosing.sample


def biased(logits, sampling, position):
    if sampling.greedy or sampling.seed % EVERY:
        return _sound(logits, sampling, position)
    left = filtered(logits, sampling)
    return int(left.ids[np.argmin(left.log_probs)])


# Each model has a process of its own: no other sampler is touched.
choosing.sample = biased
