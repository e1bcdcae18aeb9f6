"""Policies as pure decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

import pytest

from tests.unit.core.core_doubles import Rig, of
from wanspec.core.arrivals import Arrivals
from wanspec.core.control import Control, Speculation
from wanspec.core.costs import CostModel
from wanspec.core.estimators import Estimators, outcome_name
from wanspec.core.events import Cancelled, Controlled, Draft, Emit, Tick
from wanspec.core.messages import Drafting
from wanspec.core.policies import POLICIES, DraftLocally, Outcome, VerifyNow, Wait, adaptive, make_policy
from wanspec.core.policies.lookahead import local_round, look_ahead
from wanspec.core.tree import TokenTree
from wanspec.errors import InvalidRequestError


@dataclass
class FakeView:
    generated: int = 5
    most_drafts: int = 50
    worker_ready: bool = True
    overdue: bool = False
    local_draft: bool = True
    opened_ms: float = 0.0
    in_hand: int = 0
    rtt: float | None = 30.0
    estimators: Estimators = field(default_factory=Estimators)
    verify_costs: CostModel | None = None
    draft_costs: CostModel | None = None
    waited_ms: float | None = None
    tree: TokenTree = field(default_factory=lambda: TokenTree([1, 2, 3]))

    def __post_init__(self):
        if self.rtt is not None:
            self.estimators.observe("rtt", self.rtt)
        self.arrivals = Arrivals(self.tree, self.estimators)

    def depth(self, limit):
        return min(limit, self.in_hand)


def wanspec(**parameters):
    policy = make_policy("wanspec", parameters)
    policy.verified(Outcome(2, 2, 0.0), 500.0)
    return policy


LATE = 10_000.0


def adaptive_decides(*, heard_before, waiting_since=None, now=1_000.0):
    """A worker a few ms away, whose next drafts are just overdue, and which is right nearly always."""
    view = FakeView(rtt=2.0, waited_ms=waiting_since)
    for _ in range(50):
        view.estimators.observe("verify", 100.0)
        view.estimators.observe("pass", 4.0)
        view.estimators.observe(outcome_name(True, 0, True), 0.02)
    view.tree.root.arrival_ms = now - 5.0
    view.arrivals.heard_ms = now - heard_before
    return make_policy("adaptive", {}).decide(view, now)


def test_adaptive_waits_for_drafts_that_are_about_to_come():
    assert isinstance(adaptive_decides(heard_before=3.0), Wait)


def test_adaptive_does_not_wait_for_a_worker_that_has_gone_silent():
    assert not isinstance(adaptive_decides(heard_before=300.0), Wait)


def test_a_wait_of_adaptive_ends_though_the_worker_goes_on():
    assert isinstance(adaptive_decides(heard_before=3.0, waiting_since=999.0), Wait)
    assert not isinstance(adaptive_decides(heard_before=3.0, waiting_since=900.0), Wait)


def test_target_only_verifies_nothing():
    assert make_policy("target_only", {}).decide(FakeView(in_hand=9), LATE) == VerifyNow(0)


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        (FakeView(generated=0), VerifyNow(0)),
        (FakeView(), DraftLocally(3, "policy")),
        (FakeView(in_hand=1), DraftLocally(2, "policy")),
        (FakeView(in_hand=3), VerifyNow(3)),
        (FakeView(in_hand=9), VerifyNow(3)),
        (FakeView(most_drafts=2), DraftLocally(2, "policy")),
        (FakeView(most_drafts=0), VerifyNow(0)),
        (FakeView(local_draft=False, in_hand=1), VerifyNow(1)),
    ],
)
def test_local(view, decision):
    assert make_policy("local", {"k": 3}).decide(view, LATE) == decision


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        (FakeView(generated=0), VerifyNow(0)),
        (FakeView(in_hand=2), VerifyNow(2)),
        (FakeView(in_hand=1), Wait(30.0, "drafts")),
        (FakeView(in_hand=1, rtt=None), Wait(25.0, "drafts")),
        (FakeView(in_hand=1, most_drafts=1), VerifyNow(1)),
        (FakeView(worker_ready=False), DraftLocally(2, "no worker")),
        (FakeView(worker_ready=False, overdue=True), DraftLocally(2, "overdue")),
        (FakeView(worker_ready=False, local_draft=False), VerifyNow(0)),
    ],
)
def test_remote_sync(view, decision):
    assert make_policy("remote_sync", {}).decide(view, LATE) == decision


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        (FakeView(generated=0), VerifyNow(0)),  # the prefill drafts nothing
        (FakeView(in_hand=2), VerifyNow(2)),  # step 2
        (FakeView(in_hand=9), VerifyNow(2)),
        (FakeView(in_hand=1), Wait(30.0, "drafts")),  # step 4
        (FakeView(in_hand=1, most_drafts=1), VerifyNow(1)),
        (FakeView(opened_ms=LATE - 29), DraftLocally(1, "worker behind")),  # step 3: it may not have seen the prompt
        (FakeView(opened_ms=LATE - 30), Wait(30.0, "drafts")),
        (FakeView(rtt=None), DraftLocally(1, "worker behind")),
        (FakeView(rtt=None, local_draft=False), VerifyNow(0)),
        (FakeView(worker_ready=False), DraftLocally(2, "no worker")),
        (FakeView(worker_ready=False, overdue=True, in_hand=1), DraftLocally(1, "overdue")),
    ],
)
def test_algorithm_1(view, decision):
    assert wanspec().decide(view, LATE) == decision


@pytest.mark.parametrize(
    ("outcome", "behind"),
    [
        (Outcome(2, 2, 0.1), False),
        (Outcome(2, 2, 0.5), False),
        (Outcome(2, 2, 0.51), True),
        (Outcome(2, 1, 0.1), True),
        (Outcome(2, 2, None), True),
        (Outcome(0, 0, 0.1), False),
    ],
)
def test_algorithm_1_sets_t_update_after_a_miss_or_a_surprise(outcome, behind):
    policy = make_policy("wanspec", {"phi": 0.5})
    policy.verified(outcome, 1_000.0)
    decision = policy.decide(FakeView(), 1_029.0)
    assert isinstance(decision, DraftLocally if behind else Wait)
    assert isinstance(policy.decide(FakeView(), 1_030.0), Wait)


@pytest.mark.parametrize(
    ("rule", "after_ms", "steps"),
    [
        ("listing", 0, 4),  # begun at 0, 7, 14 and 21 ms; 28 would do too, but k is 4
        ("listing", 9, 3),  # at 9, 16 and 23 ms
        ("listing", 25, 1),
        ("listing", 30, 0),
        ("text", 9, 2),  # at 9 and 16 ms: from 23 ms on the worker is as soon
    ],
)
def test_local_steps_that_follow_each_other_make_one_request(rule, after_ms, steps):
    policy = make_policy("wanspec", {"rule": rule, "k": 4})
    policy.verified(Outcome(2, 1, 0.1), 1_000.0)
    view = FakeView(most_drafts=9)
    view.estimators.observe("draft", 7.0)
    decision = policy.decide(view, 1_000.0 + after_ms)
    assert decision == DraftLocally(steps, "worker behind") if steps else isinstance(decision, Wait)


def test_a_sequence_opened_again_is_behind_again():
    policy = make_policy("wanspec", {})
    policy.verified(Outcome(2, 1, 0.1), 1_000.0)
    assert isinstance(policy.decide(FakeView(opened_ms=2_000.0), 2_029.0), DraftLocally)
    assert isinstance(policy.decide(FakeView(opened_ms=2_000.0), 2_030.0), Wait)
    assert isinstance(policy.decide(FakeView(opened_ms=500.0), 1_029.0), DraftLocally)


@pytest.mark.parametrize(
    ("rule", "parameters", "last_local_ms"),
    [
        ("listing", {}, 29),
        ("listing", {"draft_ms": 20}, 29),  # the listing does not decide by T_draft
        ("text", {"draft_ms": 20}, 9),
        ("text", {}, 22),  # the measured local draft step is 7 ms
        ("listing", {"rtt_ms": 50}, 49),
    ],
)
def test_both_readings_of_t_draft(rule, parameters, last_local_ms):
    policy = make_policy("wanspec", {"rule": rule, **parameters})
    policy.verified(Outcome(2, 0, 0.0), 1_000.0)
    view = FakeView()
    view.estimators.observe("draft", 7.0)
    assert isinstance(policy.decide(view, 1_000.0 + last_local_ms), DraftLocally)
    assert isinstance(policy.decide(view, 1_001.0 + last_local_ms), Wait)


def test_waits_last_as_long_as_stated():
    view = FakeView()
    for value in (10.0, 20.0):
        view.estimators.observe("pass", value)
    view.estimators.observe("rtt", 90.0)
    assert wanspec().decide(view, LATE) == Wait(90.0 + 2 * 20.0, "drafts")
    assert wanspec(wait_ms=7).decide(view, LATE) == Wait(7.0, "drafts")
    remote_sync = make_policy("remote_sync", {"k": 3})
    assert remote_sync.decide(view, LATE) == Wait(90.0 + (2 + 3) * 20.0, "drafts")
    assert make_policy("remote_sync", {"wait_ms": 7}).decide(view, LATE) == Wait(7.0, "drafts")


def test_drafting_is_algorithm_2s_parameters():
    policy = make_policy("wanspec", {"branching": 3, "theta": 0.25, "width": 5, "max_depth": 7, "floor": 0.5})
    assert policy.drafting(Estimators()) == Drafting(3, 0.25, 5, 7, 0.5)
    assert make_policy("remote_sync", {"k": 4}).drafting(Estimators()) == Drafting(1, 0.0, 1, 4)


def test_the_worker_drafts_as_deep_as_the_target_gets_until_its_drafts_after_a_commit_are_here():
    known = Estimators()
    for name, value in (("rtt", 30.0), ("pass", 7.5)):
        known.observe(name, value)
    assert wanspec(k=2).drafting(known).max_depth == 24  # no verification yet
    known.observe("call", 23.4)
    assert wanspec(k=2).drafting(known).max_depth == 3 * (2 + 2)
    assert wanspec(k=2, max_depth=5).drafting(known).max_depth == 5
    slow = Estimators()
    for name, value in (("rtt", 500.0), ("call", 0.0)):
        slow.observe(name, value)
    assert wanspec(k=2).drafting(slow).max_depth == 24


@pytest.mark.parametrize("name", POLICIES)
def test_every_parameter_has_limits_that_are_enforced(name):
    kind = POLICIES[name]
    parameters = [f for f in fields(kind) if f.init]
    assert {f.name for f in parameters} == set(kind.limits)
    for parameter in parameters:
        limits = kind.limits[parameter.name]
        if isinstance(parameter.default, str):
            assert all(getattr(make_policy(name, {parameter.name: v}), parameter.name) == v for v in limits)
            with pytest.raises(InvalidRequestError, match="is not one of listing, text"):
                make_policy(name, {parameter.name: "other"})
            continue
        low, high = limits
        for good in (low, high, parameter.default):
            value = getattr(make_policy(name, {parameter.name: good}), parameter.name)
            assert value == good
            assert type(value) is type(parameter.default)
        for bad in (low - 1, high + 1):
            with pytest.raises(InvalidRequestError, match=f"{bad} is outside {low} to {high}") as caught:
                make_policy(name, {parameter.name: bad})
            assert caught.value.field == f"policy_parameters.{parameter.name}"


@pytest.mark.parametrize(
    ("name", "parameters", "match"),
    [
        ("nonsense", {}, "policy: 'nonsense' is unknown; choose one of target_only, local"),
        ("local", {"phi": 1}, "policy_parameters.phi: local has no such parameter; it has k"),
        ("wanspec", {"_updated_ms": 1}, "policy_parameters._updated_ms: wanspec has no such parameter"),
        ("wanspec", {"k": 1.5}, "policy_parameters.k: 1.5 is not a whole number"),
        ("wanspec", {"k": "2"}, "policy_parameters.k: '2' is not a number"),
        ("wanspec", {"k": True}, "policy_parameters.k: True is not a number"),
        ("wanspec", {"k": math.nan}, "policy_parameters.k: nan is not a finite number"),
        ("wanspec", {"phi": math.inf}, "policy_parameters.phi: inf is not a finite number"),
        ("wanspec", {"rule": 1}, "policy_parameters.rule: 1 is not one of"),
    ],
)
def test_bad_parameters_name_field_and_limit(name, parameters, match):
    with pytest.raises(InvalidRequestError, match=match):
        make_policy(name, parameters)


def test_a_number_too_large_for_a_float_is_refused_by_name():
    with pytest.raises(InvalidRequestError, match=r"policy_parameters\.k: 1000.* is outside 1 to 32"):
        make_policy("wanspec", {"k": 10**400})
    with pytest.raises(InvalidRequestError, match=r"policy_parameters\.phi"):
        make_policy("wanspec", {"phi": 10**400})


@pytest.mark.parametrize("overhead_ms", [0.0, 1.0, 3.0])
def test_calls_that_take_longer_than_their_engines_are_no_debt_of_adaptive(overhead_ms):
    """Rounds that are just as the single region's cost no credit, whatever is between the engines and us."""
    view, now, policy = FakeView(generated=1, worker_ready=False), 0.0, make_policy("adaptive", {})
    for _ in range(60):
        view.estimators.observe("verify", 10.0)
        view.estimators.observe("draft", 3.0)
        view.estimators.observe(outcome_name(False, 0, True), 0.1)
    for _ in range(300):
        policy.decide(view, now)
        if policy.unprepared:
            policy.prepare(view, now)
        for name, value in view.arrivals.measured:
            view.estimators.observe(name, value)
        view.arrivals.measured.clear()
        alone = replace(policy._conditions_of(view, False), price=0.0)
        spent = local_round(replace(alone, verify_ms=10.0 + overhead_ms, draft_ms=3.0 + overhead_ms))
        view.generated += round(spent.tokens)
        now += spent.time_ms * round(spent.tokens) / spent.tokens
        policy.verified(Outcome(1, 1, 0.0, overhead_ms), now)
    assert view.estimators.credit > 0.3


def test_adaptive_solves_its_model_while_the_target_is_at_work(monkeypatch):
    solved = []
    monkeypatch.setattr(adaptive, "look_ahead", lambda conditions: solved.append(1) or look_ahead(conditions))
    view, policy = FakeView(), make_policy("adaptive", {})
    assert policy.unprepared
    policy.prepare(view, 0.0)
    assert len(solved) == 1
    for number in range(1, 100):
        policy.decide(view, 30.0 * number)
        assert len(solved) == (1 if number <= 4 else 2 + (number - 5) // 24), "no decision waits for a solution"
        policy.verified(Outcome(1, 1, 0.0), 30.0 * number)
        if policy.unprepared:
            policy.prepare(view, 30.0 * number)
            assert not policy.unprepared
    for number in range(100, 150):
        policy.verified(Outcome(1, 1, 0.0), 30.0 * number)
    policy.decide(view, 5_000.0)
    assert len(solved) == 6, "where no target was at work for long enough, a decision does it"


def test_a_sequence_has_its_policy_compute_ahead_once_the_target_has_been_called():
    rig = Rig(links=0)
    actions, called = rig.submit(policy="adaptive"), rig.now
    policy = rig.sequence().policy
    assert policy.unprepared
    assert rig.controller.deadline() == called + 1.0
    assert rig.do(Tick(), called + 1.0) == []
    assert not policy.unprepared
    assert rig.controller.deadline() > called + 1_000.0, "once is enough"
    assert of(Emit, rig.answer(actions, 1))


def test_an_answer_that_comes_sooner_leaves_nothing_to_be_computed_ahead():
    rig = Rig(links=0)
    actions = rig.submit(policy="target_only")
    assert rig.controller.deadline() > rig.now + 1_000.0, "this policy computes nothing"
    rig.do(Cancelled(1))
    actions = rig.submit(2, policy="adaptive")
    assert of(Draft, rig.answer(actions, 1))
    assert rig.controller.deadline() > rig.now + 1_000.0


def test_a_policy_without_a_latency_target_has_no_pace_to_look_at():
    view, policy = FakeView(worker_ready=False), make_policy("local_adaptive", {})
    prepared = 0
    for number in range(100):
        policy.decide(view, 30.0 * number)
        policy.verified(Outcome(1, 1, 0.0), 30.0 * number)
        if policy.unprepared:
            policy.prepare(view, 30.0 * number)
            prepared += 1
    assert prepared == 5, "the first solution after 4 rounds, then every 24"


def test_nothing_is_computed_ahead_where_speculation_is_off():
    rig = Rig(links=0)
    rig.do(Controlled(Control(speculation=Speculation.OFF)))
    rig.submit(policy="adaptive")
    assert rig.controller.deadline() > rig.now + 1_000.0
