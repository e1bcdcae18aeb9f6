"""How the target (or the local draft) is to choose, as tensors of the contract. Free of Triton: numpy in, numpy out.

Temperature 0 and no options give exactly the inputs that greedy decoding always had.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.options import GenerationOptions, Words
from wanspec.core.sampling import Sampling, round_seed

Tensors = dict[str, NDArray[Any]]

_GREEDY = np.ones((1, 1), dtype=np.int32)
_NOT_DRAFTED = np.float32(-1e4)
"""As a logit: a probability of 0."""


def sampling_inputs(sampling: Sampling) -> Tensors:
    """Temperature, top-k, top-p and seed. The same in every round: our engines' noise depends on the position."""
    if sampling.greedy:
        return {"runtime_top_k": _GREEDY}
    tensors: Tensors = {
        "temperature": _float(sampling.temperature),
        # Always there: with neither top-k nor top-p the contract's default is greedy.
        "runtime_top_p": _float(sampling.top_p),
        "seed": np.array([[sampling.seed]], dtype=np.uint64),
    }
    if sampling.top_k > 0:
        tensors["runtime_top_k"] = np.array([[sampling.top_k]], dtype=np.int32)
    return tensors


def one_hot_inputs(sampling: Sampling, drafts: Sequence[int], length: int, vocab_size: int) -> Tensors:
    """What TensorRT-LLM needs above temperature 0, to keep the target's law (``docs/sampling.md``).

    The drafts' distribution: each was certain. And a seed of its own for the round: its random numbers depend on the
    order of the draws, so that one seed for all rounds would draw the same numbers again.

    Args:
        sampling: of the request; nothing where it is greedy.
        drafts: k token ids; may be empty.
        length: tokens of the prefix.
        vocab_size: columns of the logits, padding included.
    """
    if sampling.greedy:
        return {}
    tensors: Tensors = {"seed": np.array([[round_seed(sampling.seed, length)]], dtype=np.uint64)}
    if drafts:
        logits = np.full((1, len(drafts), vocab_size), _NOT_DRAFTED, dtype=np.float32)
        logits[0, np.arange(len(drafts)), list(drafts)] = 0.0
        tensors["draft_logits"] = logits
    return tensors


def option_inputs(options: GenerationOptions, vocab_size: int) -> Tensors:
    """Bad words, penalties and bias; nothing for what is not asked for. ``vocab_size``: length of the bias."""
    tensors: Tensors = {}
    if options.bad_words:
        tensors["bad_words_list"] = word_lists([options.bad_words])
    if options.repetition_penalty != 1.0:
        tensors["repetition_penalty"] = _float(options.repetition_penalty)
    if options.presence_penalty != 0.0:
        tensors["presence_penalty"] = _float(options.presence_penalty)
    if options.frequency_penalty != 0.0:
        tensors["frequency_penalty"] = _float(options.frequency_penalty)
    if options.logit_bias:
        tensors["embedding_bias"] = bias_of(options, vocab_size)[None]
    return tensors


def bias_of(options: GenerationOptions, vocab_size: int) -> NDArray[np.float32]:
    """What is to be added to the logits: float32 [vocab_size]."""
    bias = np.zeros(vocab_size, dtype=np.float32)
    for token, value in options.logit_bias:
        bias[token] = value
    return bias


def word_lists(rows: Sequence[Words]) -> NDArray[np.int32]:
    """Token sequences, for each of B requests, as the contract has them.

    Returns:
        int32 [B, 2, n]: all tokens in a row, padded with 0, and where each sequence ends, padded with -1. A sequence
        without tokens is left out.
    """
    kept = [[word for word in words if word] for words in rows]
    width = max(sum(map(len, words)) for words in kept)
    lists = np.zeros((len(rows), 2, width), dtype=np.int32)
    lists[:, 1] = -1
    for row, words in zip(lists, kept, strict=True):
        tokens = [token for word in words for token in word]
        row[0, : len(tokens)] = tokens
        row[1, : len(words)] = list(accumulate(map(len, words)))
    return lists


def _float(value: float) -> NDArray[np.float32]:
    return np.array([[value]], dtype=np.float32)
