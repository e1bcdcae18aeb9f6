"""The best next tokens of each leaf, out of the executor's logits: on the GPU where they are there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wanspec.core.drafting import Expansion, SequenceLeaves
from wanspec.engines.ranking import expansion_of, top_tokens
from wanspec.engines.trtllm.leaves import Leaves
from wanspec.errors import EngineError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Rows:
    """What has come for the leaves of a pass, by row: ranked ones where ``top`` is above 0, else whole rows of logits.

    A row that has not come is that of a leaf that nobody needs any more.
    """

    numbers: dict[int, int] = field(default_factory=dict)
    top: int = 0
    vocab_size: int = 0
    ranked: dict[int, tuple[NDArray[Any], NDArray[Any], float]] = field(default_factory=dict)
    whole: dict[int, torch.Tensor] = field(default_factory=dict)
    error: Exception | None = None

    def expansion(self, batch: Sequence[SequenceLeaves], top: int) -> Expansion:
        """As the worker wants it.

        Raises:
            EngineError: the logits could not be read.
        """
        if self.error is not None:
            raise EngineError(f"the logits could not be read: {self.error}") from self.error
        nothing = torch.zeros(self.vocab_size)
        rows = range(len(self.numbers))
        if not self.top:
            return expansion_of(torch.stack([self.whole.get(row, nothing) for row in rows]), batch, top)
        empty = (np.arange(top), np.full(top, -np.log(self.vocab_size)), float(np.log(self.vocab_size)))
        found = [self.ranked.get(row, empty) for row in rows]
        return Expansion(
            np.array([ids for ids, _, _ in found], dtype=np.int32),
            np.array([log_probs for _, log_probs, _ in found], dtype=np.float32),
            np.array([entropy for _, _, entropy in found], dtype=np.float32),
            0.0,
        )


class TopTokens:
    """Collects rows for one pass at a time. Also the executor's batched logits post-processor, on a thread of its own.

    Logits are looked at, not changed.
    """

    def __init__(self, vocab_size: int) -> None:
        """``vocab_size``: columns of the logits from there on stand for no token."""
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._rows = Rows()

    def begin(self, leaves: Leaves, top: int) -> None:
        """Collect for these leaves; ``top`` best tokens of each, or whole rows for 0."""
        with self._lock:
            numbers = {leaf.number: leaf.row for leaf in leaves.all}
            self._rows = Rows(numbers, top, self._vocab_size)

    def end(self) -> Rows:
        """What has come; later rows are dropped."""
        with self._lock:
            rows, self._rows = self._rows, Rows()
            return rows

    def take(self, number: int, logits: Any) -> None:
        """Take the logits that a leaf's request returned, ``[1, 1, columns]``.

        Raises:
            EngineError: there are none.
        """
        if logits is None:
            raise EngineError("TensorRT-LLM returned no generation_logits")
        self._collect([number], [logits])

    def __call__(
        self,
        request_ids: list[int],
        logits: list[torch.Tensor],
        token_ids: list[list[list[int]]],
        stream: int,
        client_ids: list[int | None],
    ) -> None:
        """What the executor calls in each step, with the logits of each request, on its own thread and stream."""
        try:
            with _on_stream(logits, stream):
                self._collect([-1 if number is None else number for number in client_ids], logits)
        except Exception as error:  # the executor's thread must live on
            logger.exception("the logits could not be read")
            with self._lock:
                if any(number in self._rows.numbers for number in client_ids if number is not None):
                    self._rows.error = error  # not one of a pass that is over

    def _collect(self, numbers: Sequence[int], logits: Sequence[torch.Tensor]) -> None:
        with self._lock:
            rows = self._rows
            wanted = [
                (rows.numbers[number], each.reshape(-1, each.shape[-1])[-1, : self._vocab_size])
                for number, each in zip(numbers, logits, strict=True)
                if number in rows.numbers
            ]
            if not wanted:
                return
            together = torch.stack([each for _, each in wanted])
            if together.shape[1] < self._vocab_size:
                raise EngineError(f"the engine has {together.shape[1]} tokens, the draft's model {self._vocab_size}")
            if not rows.top:
                rows.whole |= zip([row for row, _ in wanted], together.float().cpu(), strict=True)
                return
            ids, log_probs, entropies = (each.cpu() for each in top_tokens(together, rows.top))
            for place, (row, _) in enumerate(wanted):
                rows.ranked[row] = (ids[place].numpy(), log_probs[place].numpy(), float(entropies[place]))


def _on_stream(logits: Sequence[torch.Tensor], stream: int) -> AbstractContextManager[Any]:
    if not logits or not logits[0].is_cuda:
        return nullcontext()
    external = torch.cuda.ExternalStream(stream)  # type: ignore[no-untyped-call]
    return torch.cuda.stream(external)
