"""What a worker asks of its draft engine: expand leaves of token trees, many sequences in one pass."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wanspec.core.sampling import Sampling
from wanspec.errors import EngineError


class SequenceLeaves(NamedTuple):
    """The leaves of one sequence to expand in one pass.

    Attributes:
        key: names the sequence to the engine, which keeps KV cache by it.
        prefix: the committed tokens, never empty. Owned by the caller and append-only.
        length: how many tokens of ``prefix`` count for this pass.
        leaves: one token path from the prefix a leaf; the empty path is the root (the last committed token).
        sampling: how the target draws its tokens; None where it is greedy.
    """

    key: Hashable
    prefix: Sequence[int]
    length: int
    leaves: tuple[tuple[int, ...], ...]
    sampling: Sampling | None = None


class Expansion(NamedTuple):
    """The result of one pass. Rows follow the leaves in the order of the batch, sequence after sequence.

    Attributes:
        tokens: int32 [leaves, m], the best next tokens, best first: the most probable ones where the target is greedy,
            else those with the largest perturbed score at the child's position (:func:`wanspec.core.sampling.ranked`).
        log_probs: float32 [leaves, m], their natural log-probabilities, of the distribution at the target's
            temperature (1 where it is greedy), before top-k and top-p.
        entropies: float32 [leaves], nats, of that distribution.
        engine_ms: time the engine spent on the pass, pace included, queueing excluded.
        margins: float32 [leaves], how far the first child's perturbed score is ahead of the second's: the larger, the
            more another model may differ and still draw the first. Infinite where the filter leaves one token. Where
            the target is greedy, of the log-probabilities; None where it is for all leaves.
        computed: for each sequence of the batch, how many tokens of its prefix the KV cache did not hold, so that they
            were computed; empty where the engine does not tell.
    """

    tokens: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    engine_ms: float
    margins: NDArray[np.float32] | None = None
    computed: tuple[int, ...] = ()


class DraftEngine(Protocol):
    """A draft model in the worker's own process. Calls come from one thread at a time."""

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary."""
        ...

    @property
    def context(self) -> int:
        """Longest sequence in tokens, drafts included."""
        ...

    def expand(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        """Run one forward pass over all leaves and return the ``top`` best children of each."""
        ...

    def release(self, key: Hashable) -> None:
        """A sequence has ended: its KV cache may go, or serve one that begins alike; unknown keys are ignored."""
        ...


@runtime_checkable
class ClosingEngine(Protocol):
    """A draft engine that holds more than memory, and is to be told of the end."""

    def close(self) -> None:
        """Let go of everything."""
        ...


def check_batch(batch: Sequence[SequenceLeaves], top: int, vocab_size: int, longest: int) -> None:
    """Refuse what no engine can expand.

    Args:
        batch, top: as :meth:`DraftEngine.expand` gets them.
        vocab_size: of the draft.
        longest: tokens of a prefix with a leaf's path.

    Raises:
        EngineError: says what is wrong.
    """
    if not batch:
        raise EngineError("expand: the batch is empty: pass at least one sequence")
    if not 1 <= top <= vocab_size:
        raise EngineError(f"expand: top is {top}: must be from 1 to the vocabulary's {vocab_size}")
    if len({sequence.key for sequence in batch}) != len(batch):
        raise EngineError("expand: a sequence occurs twice in one batch: merge its leaves")
    for sequence in batch:
        if not 1 <= sequence.length <= len(sequence.prefix) or not sequence.leaves:
            raise EngineError(f"expand: length {sequence.length} and {len(sequence.leaves)} leaves: both must be 1+")
        tokens = sequence.length + max(map(len, sequence.leaves))
        if tokens > longest:
            raise EngineError(f"expand: prefix and leaf are {tokens} tokens, the draft takes {longest}")
