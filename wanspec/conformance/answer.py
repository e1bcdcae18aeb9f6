"""What came back for one request, in the terms of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.conformance.rule import RuleFailedError
from wanspec.conformance.server import Response


@dataclass(frozen=True, slots=True)
class Answer:
    """All responses to one request that hold tensors, in order. ``finals``: how many were marked the last one."""

    responses: Sequence[Response]
    finals: int | None

    @classmethod
    def of(cls, responses: Sequence[Response]) -> Answer:
        """From what a server sent."""
        marked = [response.final for response in responses if response.final is not None]
        return cls([response for response in responses if response.tensors], sum(marked) if marked else None)

    @property
    def empty(self) -> bool:
        """Whether no response holds tokens."""
        return all(response.tensors["output_ids"].size == 0 for response in self.responses if self._has(response))

    @staticmethod
    def _has(response: Response) -> bool:
        return "output_ids" in response.tensors

    @property
    def tokens(self) -> list[int]:
        """Tokens of all responses, as far as sequence_length says."""
        return [token for response in self.responses for token in tokens_of(response)]

    def tensor(self, name: str) -> NDArray[Any]:
        """An output of the only, or the last, response.

        Raises:
            RuleFailedError: it is not there.
        """
        if not self.responses or name not in self.responses[-1].tensors:
            names = sorted(self.responses[-1].tensors) if self.responses else []
            raise RuleFailedError(f"output {name}, which the request asks for", "present", f"only {names}")
        return self.responses[-1].tensors[name]

    def scalar(self, name: str) -> Any:
        """The one value of an output.

        Raises:
            RuleFailedError: it is not there, or not one value.
        """
        tensor = self.tensor(name)
        if tensor.size != 1:
            raise RuleFailedError(f"output {name}", "one value", f"shape {list(tensor.shape)}")
        return tensor.reshape(-1)[0].item()

    def values(self, name: str) -> list[float]:
        """All values of an output, flat, over all responses."""
        self.tensor(name)
        return [float(value) for each in self.responses for value in each.tensors[name].reshape(-1)]

    def logits(self, name: str, rows: int) -> NDArray[np.float64]:
        """Logits as [rows, vocab].

        Raises:
            RuleFailedError: they are not there, or do not divide into so many rows.
        """
        tensor = self.tensor(name)
        if rows < 1 or tensor.size == 0 or tensor.size % rows:
            raise RuleFailedError(f"output {name}", f"{rows} rows of logits", f"shape {list(tensor.shape)}")
        found: NDArray[np.float64] = tensor.reshape(rows, -1).astype(np.float64)
        return found


def tokens_of(response: Response) -> list[int]:
    """Tokens of one response, of the first beam."""
    ids = response.tensors.get("output_ids")
    if ids is None or ids.size == 0:
        return []
    row = ids.reshape(-1, ids.shape[-1])[0]
    lengths = response.tensors.get("sequence_length")
    length = len(row) if lengths is None or lengths.size == 0 else int(lengths.reshape(-1)[0])
    return [int(token) for token in row[:length]]
