"""What a worker asks of its draft engine: expand leaves of token trees, many sequences in one pass."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SequenceLeaves:
    """The leaves of one sequence to expand in one pass.

    Attributes:
        key: names the sequence to the engine, which keeps KV cache by it.
        prefix: the committed tokens, never empty. Owned by the caller and append-only.
        length: how many tokens of ``prefix`` count for this pass.
        leaves: one token path from the prefix a leaf; the empty path is the root (the last committed token).
    """

    key: Hashable
    prefix: Sequence[int]
    length: int
    leaves: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Expansion:
    """The result of one pass. Rows follow the leaves in the order of the batch, sequence after sequence.

    Attributes:
        tokens: int32 [leaves, m], the most probable next tokens, best first.
        log_probs: float32 [leaves, m], their natural log-probabilities.
        entropies: float32 [leaves], nats, of the whole distribution.
        engine_ms: time the engine spent on the pass, pace included, queueing excluded.
    """

    tokens: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    engine_ms: float


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
        """Forget the KV cache of a sequence; unknown keys are ignored."""
        ...
