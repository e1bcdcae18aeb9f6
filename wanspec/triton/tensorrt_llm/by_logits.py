"""An experiment: the target returns its logits, and the controller itself draws, with the coupled noise.

So output above temperature 0 is *byte-exact* on an engine that cannot draw with our noise, as far as its logits do not
depend on what else is in the batch. Every draft is to be accepted, for the sake of its logits: drafts come as one-hot
``draft_logits`` with an acceptance threshold of almost nothing. What the engine draws is not looked at.
``docs/sampling.md`` has the cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wanspec.core.options import GenerationOptions
from wanspec.core.sampling import Sampling
from wanspec.engines.choosing import Chosen, TokenChooser
from wanspec.engines.contract import GenerationRequest
from wanspec.triton.tensorrt_llm.inputs import Tensors, bias_of, one_hot_inputs, sampling_inputs

THRESHOLD = np.float32(1e-30)
"""Drafts with a probability above it are accepted. 0 would be none: TensorRT-LLM takes thresholds above 0."""

_UNFILTERED = Sampling(1.0)


def threshold_inputs(drafts: Sequence[int]) -> Tensors:
    """The threshold, for greedy requests too: TensorRT-LLM reads one for a whole batch."""
    return {"draft_acceptance_threshold": np.array([[THRESHOLD]], dtype=np.float32)} if drafts else {}


def logits_inputs(drafts: Sequence[int], length: int, columns: int) -> Tensors:
    """What makes the engine accept every draft: no filter, and no options, which would forbid some.

    Args:
        drafts: k token ids; may be empty.
        length: tokens of the prefix.
        columns: of the logits, padding included.
    """
    return (
        sampling_inputs(_UNFILTERED) | one_hot_inputs(_UNFILTERED, drafts, length, columns) | threshold_inputs(drafts)
    )


def choose(
    logits: NDArray[np.float32],
    prefix: NDArray[np.int32],
    drafts: Sequence[int],
    sampling: Sampling,
    options: GenerationOptions,
    *,
    log_probs: bool,
) -> Chosen:
    """Draw as one of our own engines would from the same logits: the accepted drafts, and one token more.

    Args:
        logits: [rows, tokens], after the prefix and after each draft. There may be fewer rows than drafts and one more:
            then fewer tokens come.
        prefix: int32 [n].
        drafts: k token ids; may be empty.
        sampling, options: of the request.
        log_probs: also give the log-probabilities of the tokens.
    """
    request = GenerationRequest(
        prefix,
        len(drafts) + 1,
        bad_words=options.bad_words,
        embedding_bias=bias_of(options, logits.shape[1]) if options.logit_bias else None,
        temperature=sampling.temperature,
        runtime_top_k=sampling.top_k,
        runtime_top_p=sampling.top_p,
        seed=sampling.seed,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
    )
    rows = logits[: len(drafts) + 1]
    judged = np.asarray(drafts[: len(rows) - 1], dtype=np.int32)
    return TokenChooser(request).choose(rows, prefix.tolist(), 0, judged, log_probs)
