"""A bound on what any policy can reach: one that knows the text before it is written.

Its worker knows which of a leaf's four children the target will take and expands only that, as if it had unlimited
leaves; its controller knows what will arrive and when, and which local drafts will be accepted. What it does not know
away: a token that is not among the draft's four best must come from the target and cross the WAN before the worker can
go on, and each target pass takes its time. The schedule with the earliest end is found by dynamic programming over
committed tokens; there is no decoding loop here, as nothing is decoded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from wanspec.core.sampling import GREEDY, Sampling
from wanspec.simulation.laws import RANKS
from wanspec.simulation.setup import Measured, Setup

MAX_DRAFT = 32
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class _Text:
    """What is known in advance. ``ranks``: of each token among the draft's children, or -1; ``runs``: how many tokens
    from here on are the draft's first child."""

    ranks: tuple[int, ...]
    runs: tuple[int, ...]


@dataclass(slots=True)
class _State:
    """The earliest way to have ``n`` tokens. ``arrivals``: when each further token of the worker is in hand."""

    end_ms: float
    rounds: int
    local: int
    busy_ms: float
    arrivals: tuple[float, ...]


def bound(setup: Setup, numbers: Sequence[int], *, free_drafts: bool = False) -> list[Measured]:
    """The least latency of some requests, one at a time, without jitter.

    Args:
        setup: as for the policies.
        numbers: which requests.
        free_drafts: the worker's passes take no time.
    """
    return [_bound(setup, number, 0.0 if free_drafts else setup.costs.expand_ms(1, 0.0)) for number in numbers]


def _bound(setup: Setup, number: int, pass_ms: float) -> Measured:
    text = _text(setup, number)
    context = len(setup.prompt(number))
    first = setup.costs.verify_ms(0, context)
    states: dict[int, _State] = {1: _State(first, 1, 0, first, ())}
    begun = setup.rtt_ms / 2  # the worker has the prompt
    states[1].arrivals = _arrivals(text, 0, begun, pass_ms, setup.rtt_ms)
    if text.ranks[0] == _UNKNOWN:
        states[1].arrivals = _arrivals(text, 1, first + setup.rtt_ms / 2, pass_ms, setup.rtt_ms)
    for done in range(1, setup.tokens):
        state = states.pop(done, None)
        if state is not None:
            _extend(setup, text, done, state, states, pass_ms, context)
    last = states[setup.tokens]
    draft_ms = setup.costs.local_ms(1, context) * last.local
    return Measured(
        last.end_ms, first, setup.tokens, last.rounds, last.local, last.busy_ms - draft_ms, draft_ms, last.busy_ms,
        0, 0, 0.0, 0, 0,
    )  # fmt: skip


def _extend(
    setup: Setup, text: _Text, done: int, state: _State, states: dict[int, _State], pass_ms: float, context: int
) -> None:
    """Try every useful next verification: at once, after each local draft, and as each token of the worker arrives."""
    wanted = setup.tokens - done - 1
    in_hand = _in_hand(state, done, state.end_ms)
    options = [(state.end_ms, in_hand, 0)]
    run = text.runs[done + in_hand] if done + in_hand < setup.tokens else 0
    for local in range(1, min(run, wanted - in_hand) + 1):
        begin = state.end_ms + setup.costs.local_ms(local, context + done)
        options.append((begin, max(in_hand + local, _in_hand(state, done, begin)), local))
    for offset in range(in_hand, min(wanted, MAX_DRAFT)):
        if done + offset >= len(state.arrivals) or state.arrivals[done + offset] == float("inf"):
            break
        options.append((state.arrivals[done + offset], offset + 1, 0))
    for begin, drafts, local in options:
        drafts = max(0, min(drafts, wanted, MAX_DRAFT))
        cost = setup.costs.verify_ms(drafts, context + done)
        reached, end = done + drafts + 1, begin + cost
        known = states.get(reached)
        if known is not None and known.end_ms <= end:
            continue
        missed = text.ranks[reached - 1] == _UNKNOWN
        arrivals = (
            _arrivals(text, reached, end + setup.rtt_ms / 2, pass_ms, setup.rtt_ms)
            if missed or not state.arrivals
            else state.arrivals
        )
        drafting = setup.costs.local_ms(local, context + done) if local else 0.0
        states[reached] = _State(end, state.rounds + 1, state.local + local, state.busy_ms + cost + drafting, arrivals)


def _in_hand(state: _State, done: int, now: float) -> int:
    """How many tokens after ``done`` the worker has delivered by ``now``."""
    return max(0, bisect_right(state.arrivals, now, lo=min(done, len(state.arrivals))) - done)


def _arrivals(text: _Text, known: int, begins: float, pass_ms: float, rtt_ms: float) -> tuple[float, ...]:
    """When each token is in hand if the worker knows the first ``known`` at ``begins``: one pass a token, up to the
    next that no draft has."""
    times = [float("-inf")] * known
    for index in range(known, len(text.ranks)):
        if text.ranks[index] == _UNKNOWN:
            break
        times.append(begins + (index - known + 1) * pass_ms + rtt_ms / 2)
    return (*times, float("inf"))


def _text(setup: Setup, number: int) -> _Text:
    tokens = list(setup.prompt(number))
    sampling = Sampling(setup.temperature, seed=number & 0xFFFFFFFF) if setup.temperature else GREEDY
    ranks = []
    for _ in range(setup.tokens):
        children = [token for token, _ in setup.pair.draft(tokens, RANKS, sampling)]
        truth = setup.pair.target(tokens, sampling)
        ranks.append(children.index(truth) if truth in children else _UNKNOWN)
        tokens.append(truth)
    runs = [0] * (len(ranks) + 1)
    for index in range(len(ranks) - 1, -1, -1):
        runs[index] = runs[index + 1] + 1 if ranks[index] == 0 else 0
    return _Text(tuple(ranks), tuple(runs))
