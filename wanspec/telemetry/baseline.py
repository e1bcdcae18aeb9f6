"""What ordinary speculative decoding in one region would take for the same answers: a model, by measured acceptance.

Policy ``local`` drafts k tokens a round. That the first i of them are all accepted is as likely as place i of a chain
was accepted here, whoever proposed the chain. It is a model, not a run: the worker's draft is taken to be as good as
the local one, and a policy that verifies long chains only where it is confident makes acceptance, and so the baseline,
look better than it is. The saving is then understated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wanspec.core.policies.single_region import Local

LEAST = 32
"""Chains verified, before acceptance counts as known."""
_EXACT = 64
"""Tokens up to which the end of an answer, where fewer drafts are of use, is computed exactly."""


class Cost(NamedTuple):
    """Of answers: verifications, and passes of the local draft. Expectations, and so no whole numbers."""

    rounds: float
    passes: float


class Baseline:
    """Learns acceptance, tells costs."""

    def __init__(self, k: int | None = None) -> None:
        self.k = Local().k if k is None else k
        self._verified = [0] * self.k
        self._accepted = [0] * self.k
        self._costs: list[Cost] | None = None

    @property
    def known(self) -> bool:
        """Whether enough has been verified."""
        return self._verified[0] >= LEAST

    def learn(self, place: int, verified: int, accepted: int) -> None:
        """Take drafts at a place of the chain, from 0, and how many of them were accepted."""
        if place < self.k:
            self._verified[place] += verified
            self._accepted[place] += accepted
            self._costs = None

    def cost(self, tokens: int) -> Cost:
        """What an answer of so many tokens takes; only while :attr:`known`."""
        if self._costs is None:
            self._costs = _costs(self._reach())
        if tokens <= _EXACT:
            return self._costs[tokens]
        last = self._costs[_EXACT]
        rounds = (tokens - _EXACT) / (1.0 + sum(self._reach()))
        return Cost(last.rounds + rounds, last.passes + self.k * rounds)

    def _reach(self) -> list[float]:
        """How often the first place, the first two, ... are all accepted."""
        reach: list[float] = []
        for verified, accepted in zip(self._verified, self._accepted, strict=True):
            above = reach[-1] if reach else 1.0
            reach.append(min(above, accepted / verified) if verified >= LEAST else above * (reach or [0.0])[0])
        return reach


def _costs(reach: Sequence[float]) -> list[Cost]:
    """By tokens of the answer. The first is the prefill's; the last ones leave room for fewer drafts."""
    left = [Cost(0.0, 0.0)]
    for tokens in range(1, _EXACT):
        drafts = min(len(reach), tokens - 1)
        rounds, passes = 1.0, float(drafts)
        for accepted in range(drafts + 1):
            beyond = reach[accepted] if accepted < drafts else 0.0
            chance = (reach[accepted - 1] if accepted else 1.0) - beyond
            after = left[tokens - accepted - 1]
            rounds, passes = rounds + chance * after.rounds, passes + chance * after.passes
        left.append(Cost(rounds, passes))
    return [Cost(0.0, 0.0), *(Cost(1.0 + each.rounds, each.passes) for each in left)]
