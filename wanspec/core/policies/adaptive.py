"""Policies that weigh every option by its expected value. ``docs/adaptive.md`` derives the arithmetic."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import ClassVar

from wanspec.core.estimators import Estimators
from wanspec.core.messages import Drafting
from wanspec.core.policies.base import Decision, DraftLocally, Outcome, VerifyNow, View, Wait
from wanspec.core.policies.lookahead import Conditions, Lookahead, local_round, look_ahead, price_within
from wanspec.core.rounds import Scores
from wanspec.core.tree import Node, Origin

_REFRESH = 24
"""Rounds after which the model is solved anew."""
_FIRST = 4
"""The same for the first solution."""
_DEFAULT_ACCEPTANCE, _DEFAULT_COVERED, _COVERED_WORTH = 0.75, 0.6, 8.0
_WAIT_LEVELS = 2
_PACED = 6
"""Rounds after which their time is compared with what was aimed at."""
_LATE = 8
"""Rounds by which either may be late, so as to be done while the target is at work."""
_ALONE = 0.05
"""Shares of the price below which the single region is left, with what the worker happens to have sent."""
_FORGET = 0.02
"""Share of what calls of the other kind queued for that a round forgets: they must be tried again some time."""
_SLACK = 0.08
"""Latency targets from this much above 1 on begin with the whole price."""
_ERROR = 0.01
"""Of modelled times: a target without slack is aimed at from so far below."""


@dataclass(slots=True)
class Adaptive:
    """Verify, draft locally or wait: whichever has the highest expected value.

    Attributes:
        k: most drafts that a verification takes.
        price: most that a local draft pass may cost, in tokens (lambda).
        slack: less than that is paid where decoding would take more than so much longer, as modelled, than with passes
            for nothing: a share.
        latency_target: if above 0, less than the price is paid for passes where decoding would else take more than this
            much of the time that the best single-region policy takes, as modelled.
        branching: most children kept of a leaf on the worker.
        width: most leaves of this sequence in a pass; the worker's own limit and its pass costs may say fewer.
        max_depth: how far below the committed prefix the worker drafts.
        floor: leaves that the target reaches with less probability are not expanded.
        keep: nor are children with less kept or sent.
    """

    k: int = 16
    price: float = 0.5
    slack: float = 0.033
    latency_target: float = 1.08
    branching: int = 4
    width: int = 256
    max_depth: int = 32
    floor: float = 0.0003
    keep: float = 0.0003
    _rounds: int = field(default=0, init=False, repr=False)
    _queued_ms: float = field(default=0.0, init=False, repr=False)
    _queued_by_kind: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False, repr=False)
    _tarried: bool = field(default=False, init=False, repr=False)
    _used: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _since_ms: float | None = field(default=None, init=False, repr=False)
    _since_tokens: int = field(default=0, init=False, repr=False)
    _paced: int = field(default=0, init=False, repr=False)
    _look: Lookahead | None = field(default=None, init=False, repr=False)
    _conditions: Conditions | None = field(default=None, init=False, repr=False)
    _with_worker: bool = field(default=False, init=False, repr=False)
    scores: Scores = field(default=(), init=False, repr=False)

    name: ClassVar[str] = "adaptive"
    uses_worker: ClassVar[bool] = True
    wants_entropy: ClassVar[bool] = False
    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "k": (1, 32),
        "price": (0, 100),
        "slack": (0, 100),
        "latency_target": (0, 10),
        "branching": (1, 16),
        "width": (1, 256),
        "max_depth": (1, 256),
        "floor": (0, 1),
        "keep": (0, 1),
    }

    def decide(self, view: View, now: float) -> Decision:
        """Score the options, take the best."""
        self.scores = ()
        if view.generated == 0:
            return VerifyNow(0)
        if self._since_ms is None or self._paced >= _PACED + _LATE:
            self._steer(view, now)
        worker = self._worth_asking(view)
        look, c = self._solved(view, worker)
        arrivals, mean = view.arrivals, c.mean_acceptance
        path, chances, times = self._chain(view, min(self.k, view.most_drafts), look.rate, c.verify_token_ms)
        room = min(self.k, view.most_drafts) - len(path)
        pass_ms = c.pass_ms
        due = times[-1] + pass_ms
        late = now - due
        silent = late >= 0.0 and now - arrivals.heard_ms > 2.0 * pass_ms
        if late >= 0.0:
            following = arrivals.heard_ms + pass_ms
            due = following if following > now else now + 0.5 * pass_ms
            if silent or late > 2 * pass_ms:
                due = now + c.turnaround_ms - pass_ms
        levels = times[1:]
        score = self._score
        best = score(look, c, worker, chances, levels, due, now, now)
        decision: Decision = VerifyNow(len(path), tuple(path))
        scores = [("verify", best)]
        # Where a chain ends before its drafts do, these are not worth their time; nor is one more of them.
        if room > 0 and view.local_draft and not (path[-1] if path else view.tree.root).children:
            d = c.draft_ms
            value = score(look, c, worker, [*chances, mean], [*levels, due], due + pass_ms, now, now + d) - c.price
            scores.append(("draft", value))
            if value > best:
                best, decision = value, DraftLocally(1, "worth a draft", tuple(path))
        began = now if view.waited_ms is None else view.waited_ms
        # A worker with nothing left to draft is silent until it hears of the next commit: no wait would ever end.
        if worker and room > 0 and not silent and now < began + c.turnaround_ms:
            more, then = list(chances), list(levels)
            for level in range(min(_WAIT_LEVELS, room)):
                more.append(mean)
                then.append(due + level * pass_ms)
                value = score(look, c, True, more, then, due + (level + 1) * pass_ms, now, due + level * pass_ms)
                scores.append(("wait" if level == 0 else f"wait {level + 1}", value))
                if value > best:
                    best, decision = value, Wait(due + level * pass_ms - began + 0.5 * pass_ms, "next drafts")
        self.scores = tuple(scores)
        self._tarried = self._tarried or not isinstance(decision, VerifyNow)
        return decision

    def _score(
        self,
        look: Lookahead,
        c: Conditions,
        worker: bool,
        chances: list[float],
        levels: list[float],
        due: float,
        now: float,
        begin: float,
    ) -> float:
        """Expected net tokens, now until the state after verifying a chain at ``begin``, with what that is worth."""
        count = len(chances)
        # Of sequences on one GPU, those that verify at once make the next pass; whoever comes later waits for its end.
        ends = begin + self._queued_by_kind[self._tarried or begin > now] + c.verify_ms + c.verify_token_ms * count
        reach, total = 1.0, -look.rate * (ends - now)
        if not worker:
            for chance in chances:
                reach *= chance
                total += reach
            return total + 1.0
        covered, value = c.covered, look.value
        shift = c.pass_ms - ends
        lost = (1.0 - covered) * value(c.turnaround_ms)
        for index in range(count):
            failed = reach * (1.0 - chances[index])
            total += failed * (index + 1 + covered * value(levels[index] + shift) + lost)
            reach *= chances[index]
        known = c.mean_acceptance + (1.0 - c.mean_acceptance) * covered
        total += reach * (count + 1 + known * value(due + shift) + (1.0 - known) * value(c.turnaround_ms))
        return total

    def _chain(
        self, view: View, limit: int, rate: float, token_ms: float
    ) -> tuple[list[Node], list[float], list[float]]:
        """The most probable path, each node's chance, and when the worker's copy of the root and of each came.

        It ends where a draft is not worth the time it adds to the verification.
        """
        remote, local = view.estimators.remote, view.estimators.local
        node = view.tree.root
        path: list[Node] = []
        reach, least = 1.0, rate * token_ms
        chances: list[float] = []
        times = [node.arrival_ms]
        pass_ms = view.arrivals.pass_ms
        while len(path) < limit and node.children:
            best, most = node, -1.0
            for child in node.children:
                table = remote if child.origin is Origin.REMOTE else local
                chance = table.chance(child.log_prob, child.rank)
                if chance > most:
                    best, most = child, chance
            reach *= most
            if reach < least:
                break
            node = best
            path.append(node)
            chances.append(most)
            times.append(node.arrival_ms if node.number >= 0 else times[-1] + pass_ms)
        return path, chances, times

    @property
    def unprepared(self) -> bool:
        """Whether the model is to be solved, or the pace to be looked at."""
        behind = self.latency_target > 0.0 and self._since_ms is not None and self._paced >= _PACED
        return self._look is None or self._rounds >= _REFRESH or behind

    def prepare(self, view: View, now: float) -> None:
        """Solve and look: milliseconds of arithmetic."""
        if self._since_ms is not None:
            self._steer(view, now)
        if self._look is None or self._rounds >= _REFRESH:
            self._solve(view, self._worth_asking(view))

    def _worth_asking(self, view: View) -> bool:
        return view.worker_ready and self._paid(view) >= _ALONE

    def _solved(self, view: View, worker: bool) -> tuple[Lookahead, Conditions]:
        old = worker != self._with_worker or self._rounds >= _REFRESH + _LATE
        if old or self._look is None or self._conditions is None:
            return self._solve(view, worker)
        return self._look, self._conditions

    def _solve(self, view: View, worker: bool) -> tuple[Lookahead, Conditions]:
        # The first solution comes during the prefill, where the first request has measured nothing yet.
        self._rounds = 0 if self._look is not None else _REFRESH - _FIRST
        self._conditions = self._measure(view, worker)
        self._look = look_ahead(self._conditions)
        self._with_worker = worker
        return self._look, self._conditions

    def _steer(self, view: View, now: float) -> None:
        """Compare the rounds since the last time with what the single region would have made of them."""
        if self.latency_target <= 0.0 or (self._since_ms is not None and self._paced < _PACED):
            return
        if self._since_ms is not None:
            tokens = view.generated - self._since_tokens
            alone = self._conditions_of(view, False)
            # A single region would have queued for the same engines, and made a call for each step.
            verify, draft = _round(alone.verify_ms + self._queued_ms), _round(alone.draft_ms + self._queued_ms)
            free = local_round(replace(alone, price=0.0, verify_ms=verify, draft_ms=draft))
            aimed = (self.latency_target - _ERROR * (1.0 - self._slack)) * tokens * free.time_ms / free.tokens
            usual = 2.0 * self._paced * free.time_ms
            # Not time over aim, whose mean few rounds of few tokens would dominate.
            pace = 1.0 + (now - self._since_ms - aimed) / usual
            view.arrivals.measured.append((view.estimators.PACE, max(0.0, pace)))
        self._since_ms, self._since_tokens, self._paced = now, view.generated, 0

    def _paid(self, view: View) -> float:
        """Share of the price that there is time for. A target with slack may spend that first."""
        if self.latency_target <= 0.0:
            return 1.0
        return min(1.0, max(0.0, view.estimators.credit + self._slack))

    @property
    def _slack(self) -> float:
        """Of the latency target: 0 at 1 and below, 1 where there is enough to begin with the whole price."""
        return min(1.0, max(0.0, (self.latency_target - 1.0) / _SLACK))

    def _measure(self, view: View, worker: bool) -> Conditions:
        conditions = self._conditions_of(view, worker)
        if self._queued_ms > 0.0:
            # Whoever waits for the scarce GPU waits longer for this pass: so many are ahead as the queue is steps long.
            waiting = self._queued_ms / conditions.verify_ms
            rate = local_round(conditions).rate
            return replace(conditions, price=_round(conditions.price + rate * conditions.draft_ms * waiting))
        return conditions

    def _conditions_of(self, view: View, worker: bool) -> Conditions:
        known = view.estimators
        verify, slope = known.median("verify") or 30.0, 0.0
        if view.verify_costs is not None:
            context = float(len(view.tree.tokens))
            first, last = view.verify_costs.verify_ms(0, context), view.verify_costs.verify_ms(8, context)
            slope = max(0.0, (last - first) / 8.0)
            verify = max(first, 1e-3)
        own, other = (known.remote, known.local) if worker else (known.local, known.remote)
        conditions = Conditions(
            _round(verify),
            _round(slope) if slope > 0.0 else 0.0,
            _round(known.median("draft") or 0.3 * verify),
            _round(view.arrivals.pass_ms),
            _round(view.arrivals.turnaround_ms),
            _kinds(own.kinds(other.mean(_DEFAULT_ACCEPTANCE))),
            round(20.0 * known.mean("covered", _DEFAULT_COVERED, _COVERED_WORTH)) / 20.0,
            self.price,
            self.k,
            worker,
            view.local_draft,
        )
        price = price_within(conditions, self.slack) if self.price > 0.0 else 0.0
        return replace(conditions, price=price * round(20.0 * self._paid(view)) / 20.0)

    def verified(self, outcome: Outcome, now: float) -> None:
        """Count rounds: measurements are looked at again now and then."""
        self._rounds += 1
        self._paced += 1
        self._queued_ms += 0.2 * (outcome.queued_ms - self._queued_ms)
        own, kinds = self._tarried, self._queued_by_kind
        kinds[own] += 0.2 * (outcome.queued_ms - kinds[own])
        kinds[not own] += _FORGET * (kinds[own] - kinds[not own])
        self._tarried = False
        self._used["remote" if outcome.remote else "local" if outcome.drafted else "none"] += 1

    @property
    def regime(self) -> str:
        """``target_only`` or ``local_adaptive`` where nine rounds of ten were as those policies' are."""
        rounds = max(1, self._used.total())
        if self._used["none"] > 0.9 * rounds:
            return "target_only"
        return self.name if self._used["remote"] > 0.1 * rounds else "local_adaptive"

    def drafting(self, known: Estimators) -> Drafting:
        """Best first."""
        return Drafting(self.branching, 0.0, self.width, self.max_depth, self.floor, self.keep, calibrated=True)


@dataclass(slots=True)
class LocalAdaptive(Adaptive):
    """Standard speculative decoding in one region, with draft length by confidence."""

    price: float = 0.0
    latency_target: float = 0.0

    name: ClassVar[str] = "local_adaptive"
    uses_worker: ClassVar[bool] = False


def _round(value: float) -> float:
    """To within 1.5%: conditions that differ less share a solution."""
    return exp(round(log(max(value, 1e-3)) / 0.03) * 0.03)


def _kinds(kinds: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Three kinds of position, rounded."""
    merged = []
    for low, high in ((0.9, 1.0), (0.65, 0.9), (0.0, 0.65)):
        inside = [(share, chance) for share, chance in kinds if low <= chance < high]
        share = sum(share for share, _ in inside)
        if share >= 0.025:
            merged.append((round(20 * share) / 20.0, round(50 * sum(s * a for s, a in inside) / share) / 50.0))
    total = sum(share for share, _ in merged)
    return tuple((share / total, min(chance, 0.99)) for share, chance in merged)
