"""What a pass of an engine costs, measured: for the worker's scheduler, the policies and the simulator. All in ms."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from wanspec.errors import ConfigError

COSTS_VERSION = 1


@dataclass(frozen=True, slots=True)
class CostTable:
    """Milliseconds over two axes, linear between the measured points.

    Attributes:
        counts: first axis, rising: leaves, or tokens.
        contexts: second axis, rising: cached tokens that each row attends to.
        ms: [counts][contexts].
    """

    counts: tuple[int, ...]
    contexts: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for name, axis in (("counts", self.counts), ("contexts", self.contexts)):
            if not axis or any(left >= right for left, right in pairwise(axis)):
                raise ConfigError(f"costs.{name}", f"is {list(axis)}: must rise and not be empty; calibrate again")
        if len(self.ms) != len(self.counts) or any(len(row) != len(self.contexts) for row in self.ms):
            raise ConfigError("costs.ms", "does not have a value for each count and context; calibrate again")
        if not all(math.isfinite(value) and value >= 0.0 for row in self.ms for value in row):
            raise ConfigError("costs.ms", "has a value that is negative or no number; calibrate again")

    def at(self, count: float, context: float) -> float:
        """Cost at a point. Below the first measured count or context it is that one's; beyond the last, the last
        slope goes on, if it rises.
        """
        return _along(self.counts, self._column(context), count)

    def rising(self, most: int, context: float) -> list[float]:
        """Costs of 1, 2, ... ``most`` at a context, as :meth:`at` gives them."""
        column = self._column(context)
        return [_along(self.counts, column, count) for count in range(1, most + 1)]

    def _column(self, context: float) -> list[float]:
        return [_along(self.contexts, row, context) for row in self.ms]


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs of one engine with one model on one machine.

    Attributes:
        step: of passes whose every row asks for logits: leaves of trees, or a token and the drafts after it.
        prefill: of passes over new tokens of one sequence of which the last asks for logits.
        engine: what was measured: model, dtype, threads, pace and so on, as text.
    """

    step: CostTable
    prefill: CostTable
    engine: Mapping[str, str] = field(default_factory=dict)

    @property
    def flat(self) -> bool:
        """Whether another row costs a pass nothing."""
        return len(self.step.counts) == 1

    def pass_ms(self, leaves: int, tokens: int, context: float) -> float:
        """Duration of one pass.

        Args:
            leaves: rows whose logits are wanted, of all sequences together; at least 1.
            tokens: rows that are computed, leaves included.
            context: cached tokens that a row attends to, on average.
        """
        cost = self.step.at(leaves, context)
        more = tokens - leaves
        if more <= 0:
            return cost
        # What tokens without logits add, over a pass of one row.
        return cost + max(0.0, self.prefill.at(more + 1, context) - self.step.at(1, context))

    def verify_ms(self, drafts: int, context: float) -> float:
        """Duration of verifying ``drafts`` tokens after a cached prefix."""
        return self.pass_ms(drafts + 1, drafts + 1, context)

    def to_plain(self) -> dict[str, Any]:
        """Encode as what JSON can hold."""
        return {"version": COSTS_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """Encode."""
        return json.dumps(self.to_plain(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> CostModel:
        """Decode.

        Raises:
            ConfigError: it is of another version or malformed.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError("costs", f"{type(error).__name__}: {error}: calibrate again") from error
        return cls.from_plain(values)

    @classmethod
    def from_plain(cls, values: Any) -> CostModel:
        """Decode what :meth:`to_plain` gave.

        Raises:
            ConfigError: it is of another version or malformed.
        """
        try:
            if values["version"] != COSTS_VERSION:
                raise ConfigError("costs.version", f"is {values['version']}, not {COSTS_VERSION}: calibrate again")
            return cls(_table(values["step"]), _table(values["prefill"]), dict(values["engine"]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError("costs", f"{type(error).__name__}: {error}: calibrate again") from error


def flat_costs(ms: float) -> CostModel:
    """Costs of an engine whose every pass takes ``ms``, whatever is in it."""
    table = CostTable((1,), (0,), ((ms,),))
    return CostModel(table, table)


UNMEASURED = flat_costs(10.0)
"""Stands in where an engine has not been calibrated: another leaf costs nothing, as on a GPU at low batch."""


def _table(values: dict[str, Any]) -> CostTable:
    rows = tuple(tuple(float(value) for value in row) for row in values["ms"])
    return CostTable(tuple(map(int, values["counts"])), tuple(map(int, values["contexts"])), rows)


def _along(axis: tuple[int, ...], values: tuple[float, ...] | list[float], place: float) -> float:
    if place <= axis[0] or len(axis) == 1:
        return values[0]
    index = min(bisect_right(axis, place), len(axis) - 1)
    slope = (values[index] - values[index - 1]) / (axis[index] - axis[index - 1])
    if place > axis[-1]:
        return values[-1] + max(0.0, slope) * (place - axis[-1])
    return values[index - 1] + slope * (place - axis[index - 1])
