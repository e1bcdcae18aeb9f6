"""What the future of a round is worth: rates and values of modelled policies. ``docs/adaptive.md`` derives them.

The state of a sequence is one number, the *lateness* y in ms: when the worker's drafts for the position after the last
committed token arrive, counted from now. Below 0 they are in hand since then, and with them one more level for every
worker pass since. Everything here is a pure function of :class:`Conditions`, so that a replay repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choice = NDArray[np.intp]

_AHEAD = 12
"""Levels in hand beyond which more add nothing."""
_STEPS = 4
"""Grid points a worker pass."""
_MOST_POINTS = 160
_LOCAL, _WAITS = 3, 3
_PRICE_STEP = 0.01
_PRICES = (0.0, 0.15, 0.3, 0.45)
"""At which the single region's best rounds are options."""
_REACH = np.exp(-np.arange(0.0, 4.0, 0.05))
"""Probabilities of a chain at which the worth of drafting on is computed."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a model is solved for. Times in ms.

    Attributes:
        verify_ms, verify_token_ms: of a verification, and of each draft in it.
        draft_ms: of a local draft step.
        pass_ms: between two levels of the worker's drafts.
        turnaround_ms: from a commit that the worker did not foresee to its next usable drafts.
        acceptance: (share of positions, acceptance of the draft's first child) of each kind of position.
        covered: that another child of the worker's is the target's token, where its first is not.
        price: of a local draft pass, in tokens (lambda).
        most: drafts that a verification may take.
        worker, local: whether there is a worker, and a local draft.
    """

    verify_ms: float
    verify_token_ms: float
    draft_ms: float
    pass_ms: float
    turnaround_ms: float
    acceptance: tuple[tuple[float, float], ...]
    covered: float
    price: float
    most: int
    worker: bool = True
    local: bool = True

    @property
    def mean_acceptance(self) -> float:
        """Of a first child, over all positions."""
        return sum(share * chance for share, chance in self.acceptance)


@dataclass(frozen=True, slots=True)
class LocalRound:
    """A round of standard speculative decoding with draft length by confidence: means. ``rate``: net tokens a ms."""

    tokens: float
    passes: float
    time_ms: float
    rate: float


@dataclass(frozen=True, slots=True)
class Lookahead:
    """A solved model.

    Attributes:
        rate: g, net tokens a ms: tokens less the price of local draft passes.
        local: the best single-region round at the same price.
        least, step: lateness of the first value, and between two, ms.
        values: V, in tokens, against being exactly in time.
    """

    rate: float
    local: LocalRound
    least: float
    step: float
    values: tuple[float, ...]

    def value(self, lateness: float) -> float:
        """V at a lateness, linear between grid points and constant beyond them."""
        place = (lateness - self.least) / self.step
        if place <= 0.0:
            return self.values[0]
        index = int(place)
        if index >= len(self.values) - 1:
            return self.values[-1]
        low = self.values[index]
        return low + (place - index) * (self.values[index + 1] - low)


@lru_cache(maxsize=512)
def local_round(conditions: Conditions) -> LocalRound:
    """Solve single-region decoding: draft while a draft's expected token is worth its time and price.

    The rate is the fixed point of (tokens - price * passes) / time.
    """
    c = conditions
    best = LocalRound(1.0, 0.0, c.verify_ms, 1.0 / c.verify_ms)
    if not c.local or not c.acceptance:
        return best
    for _ in range(12):
        tokens, passes = _drafted(c, best.rate)
        time = c.verify_ms + passes * (c.draft_ms + c.verify_token_ms)
        rate = (tokens - c.price * passes) / time
        if rate <= best.rate * (1.0 + 1e-6):
            break
        best = LocalRound(tokens, passes, time, rate)
    return best


def _drafted(c: Conditions, rate: float) -> tuple[float, float]:
    """Expected tokens and local passes of a round that drafts on while it pays at a rate."""
    cost = rate * (c.draft_ms + c.verify_token_ms) + c.price
    mean = c.mean_acceptance
    tokens, passes = np.zeros(len(_REACH)), np.zeros(len(_REACH))
    # From improbable chains, which stop, to the empty one; a kind of position that is always right is a step of one.
    for index in range(len(_REACH) - 1, -1, -1):
        if _REACH[index] * mean <= cost:
            continue
        passes[index] = 1.0
        for share, chance in c.acceptance:
            below = index + max(1, round(-np.log(chance) / 0.05))
            tokens[index] += share * _REACH[index] * chance
            if below < len(_REACH):
                tokens[index] += share * tokens[below]
                passes[index] += share * passes[below]
    return 1.0 + float(tokens[0]), float(passes[0])


@lru_cache(maxsize=512)
def look_ahead(conditions: Conditions) -> Lookahead:
    """Solve the model by policy iteration on a grid of latenesses."""
    c = conditions
    local = local_round(c)
    if not c.worker:
        return Lookahead(local.rate, local, 0.0, 1.0, (0.0, 0.0))
    model = _model(replace(c, price=0.0))
    rate, values, _ = model.solve(c.price)
    return Lookahead(rate, local, float(model.grid[0]), model.step, tuple(values.tolist()))


@lru_cache(maxsize=512)
def price_within(conditions: Conditions, slack: float) -> float:
    """The highest price at which tokens take at most ``slack`` longer, as modelled, than where passes cost nothing.

    Args:
        conditions: their price is the most that is looked at.
        slack: as a share of the time of a token.
    """
    free = replace(conditions, price=0.0)
    if not free.local:
        return conditions.price
    speed = _Speeds(_model(free)) if free.worker else partial(_alone, free)
    least = speed(0.0) / (1.0 + slack)
    low, high = 0.0, conditions.price
    if speed(high) >= least:
        return high
    while high - low > _PRICE_STEP:
        price = 0.5 * (low + high)
        low, high = (price, high) if speed(price) >= least else (low, price)
    return low


def _alone(c: Conditions, price: float) -> float:
    """Tokens a ms of the single region."""
    found = local_round(replace(c, price=price))
    return found.tokens / found.time_ms


class _Speeds:
    """Tokens a ms of what is best at a price; each solution begins with the one before."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._chosen: Choice | None = None

    def __call__(self, price: float) -> float:
        _, _, self._chosen = self._model.solve(price, self._chosen)
        return self._model.speed(self._chosen)


class Model:
    """All options at all latenesses of the grid, [options, points], at no price."""

    def __init__(self, c: Conditions) -> None:
        span = c.turnaround_ms + _AHEAD * c.pass_ms
        self.step = max(c.pass_ms / _STEPS, span / _MOST_POINTS)
        self.grid = grid = np.arange(-_AHEAD * c.pass_ms, c.turnaround_ms + self.step, self.step)
        alone = [local_round(replace(c, price=price)) for price in _PRICES] if c.local else []
        self._moves = np.zeros((_WAITS + 1 + (_LOCAL if c.local else 0) + len(alone), len(grid), len(grid)))
        options = _options(c, grid, self.step, alone, self._moves)
        self._tokens = np.stack([o.tokens for o in options])
        self._passes = np.stack([o.passes for o in options])
        self._times = np.stack([o.time_ms for o in options])
        self._here = np.arange(len(grid))
        self._rate = local_round(c).rate
        self._in_time = round(-grid[0] / self.step)

    def solve(self, price: float, chosen: Choice | None = None) -> tuple[float, Floats, Choice]:
        """Rate, values and the option taken at each point, at a price; ``chosen``: those to begin with."""
        gain = self._tokens - price * self._passes
        rate, values = self._rate, np.zeros(len(self.grid))
        if chosen is not None:
            rate, values = self._evaluate(gain, chosen)
        for _ in range(20):
            better = np.argmax(gain - rate * self._times + self._moves @ values, axis=0)
            if chosen is not None and np.array_equal(better, chosen):
                break
            chosen = better
            rate, values = self._evaluate(gain, chosen)
        assert chosen is not None
        return float(rate), values, chosen

    def speed(self, chosen: Choice) -> float:
        """Tokens a ms with these options."""
        return self._evaluate(self._tokens, chosen)[0]

    def _evaluate(self, gain: Floats, chosen: Choice) -> tuple[float, Floats]:
        here = self._here
        return _evaluate(gain[chosen, here], self._times[chosen, here], self._moves[chosen, here], self._in_time)


@lru_cache(maxsize=4)
def _model(conditions: Conditions) -> Model:
    return Model(conditions)


@dataclass(frozen=True, slots=True)
class _Option:
    """One option at every lateness of the grid: expected tokens, passes, time."""

    tokens: Floats
    passes: Floats
    time_ms: Floats


def _options(c: Conditions, grid: Floats, step: float, alone: Sequence[LocalRound], moves: Floats) -> list[_Option]:
    """All options; where each leads is added to its ``moves`` [points, points]."""
    options = []
    until = np.where(grid > 0.0, grid, c.pass_ms - np.mod(-grid, c.pass_ms))
    for waits in range(_WAITS + 1):
        wait = until + (waits - 1) * c.pass_ms if waits else np.zeros(len(grid))
        options.append(_round(c, grid, step, wait, 0, moves[waits]))
    if c.local:
        for drafts in range(1, _LOCAL + 1):
            spent = np.full(len(grid), drafts * c.draft_ms)
            options.append(_round(c, grid, step, spent, drafts, moves[_WAITS + drafts]))
    ones = np.ones(len(grid))
    for following, local in enumerate(alone, len(options)):
        missed = min(1.0, local.tokens * (1.0 - c.mean_acceptance) * (1.0 - c.covered))
        to = grid - local.time_ms + local.tokens * c.pass_ms
        _add(moves[following], grid[0], step, to, (1.0 - missed) * ones)
        _add(moves[following], grid[0], step, c.turnaround_ms * ones, missed * ones)
        options.append(_Option(local.tokens * ones, local.passes * ones, local.time_ms * ones))
    return options


def _round(c: Conditions, grid: Floats, step: float, delay: Floats, drafts: int, moves: Floats) -> _Option:
    """Spend a time (on drafts of one's own, where there are any), then verify what is in hand."""
    late = grid - delay
    levels = np.where(late > 1e-9, 0.0, np.floor(-late / c.pass_ms + 1e-9) + 1.0)
    own = np.where(grid > 1e-9, 0.0, np.floor(-grid / c.pass_ms + 1e-9) + 1.0) + drafts
    length = np.minimum(np.maximum(levels, own if drafts else 0.0), c.most)
    time = delay + c.verify_ms + c.verify_token_ms * length
    mean, accepted = c.mean_acceptance, np.arange(length.max() + 1.0)[:, None]
    all_of_it = accepted == length
    ends = np.where(accepted <= length, mean**accepted, 0.0) * np.where(all_of_it, 1.0, 1.0 - mean)
    known = ends * np.where(all_of_it, mean + (1.0 - mean) * c.covered, c.covered)
    _add(moves, grid[0], step, grid - time + (accepted + 1.0) * c.pass_ms, known)
    missed = ends - known
    _add(moves, grid[0], step, np.full(len(grid), c.turnaround_ms), missed.sum(axis=0))
    tokens = (ends * (accepted + 1.0)).sum(axis=0)
    return _Option(tokens, np.full(len(grid), float(drafts)), time)


def _add(moves: Floats, least: float, step: float, to: Floats, chance: Floats) -> None:
    """Spread the probability of getting from each point [points] to lateness ``to`` over the two points around that.

    ``to`` and ``chance`` may have a dimension of outcomes before that of points.
    """
    points = to.shape[-1]
    place = np.clip((to - least) / step, 0.0, points - 1.000001)
    low = place.astype(np.int64)
    part = place - low
    index = (np.arange(points) * points + low).ravel()
    flat = moves.reshape(-1)
    flat += np.bincount(index, (chance * (1.0 - part)).ravel(), flat.size)
    flat += np.bincount(index + 1, (chance * part).ravel(), flat.size)


def _evaluate(gain: Floats, times: Floats, moves: Floats, in_time: int) -> tuple[float, Floats]:
    """Rate and values of one fixed choice: V = gain - rate * times + moves V, and V is 0 where drafts are in time."""
    system = np.eye(len(gain)) - moves
    system[:, in_time] = times
    solved = np.linalg.solve(system, gain)
    values = solved.copy()
    values[in_time] = 0.0
    return float(solved[in_time]), values
