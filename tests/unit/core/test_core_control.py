"""The switches: running sequences follow, what is verified changes, what is committed does not."""

from __future__ import annotations

import pytest

from tests.unit.core.core_doubles import Rig, emitted, finished, hash_of, messages_in, of, one
from wanspec.core.control import Control, Speculation
from wanspec.core.events import Cancelled, Controlled, Draft, Drafted, Verify
from wanspec.core.messages import ROOT, Close, Open
from wanspec.core.replay import replay
from wanspec.core.totals import state_of
from wanspec.core.tree import Origin
from wanspec.errors import InvalidRequestError

PROMPT = (5, 6, 7)
OFF, LOCAL, SHADOW, REMOTE = Speculation


@pytest.fixture
def rig():
    made = Rig()
    made.link_up()
    for _ in range(3):
        made.controller.estimators.observe("rtt", 30.0)
    made.now += 1_000.0
    return made


def switch(rig, speculation=REMOTE, policy="adaptive", **parameters):
    return rig.do(Controlled(Control(speculation, policy, parameters)))


def draft(rig, actions, *tokens):
    action = one(Draft, actions)
    return rig.do(Drafted(action.action, tokens, (-0.1,) * len(tokens), 7.5 * len(tokens)))


def ahead(rig, actions):
    """The worker has drafted 1, 2, 3 when the target answers 1."""
    rig.drafts(PROMPT, 1, [(ROOT, 1, -0.1), (0, 2, -0.2), (1, 3, -0.3)])
    return rig.answer(actions, 1)


def test_off_stops_the_worker_at_once_and_verifies_nothing(rig):
    actions = ahead(rig, rig.submit())
    verification = one(Verify, actions)
    assert verification.drafts == (2, 3)
    assert messages_in(switch(rig, OFF), Close) == [Close(1, 1)]
    # What was under way ends as it began, and is committed as the target chose.
    actions = rig.answer(actions, 2, 9)
    assert emitted(actions) == (2, 9)
    for token in (4, 3):
        assert one(Verify, actions).drafts == ()
        actions = rig.answer(actions, token)
        assert emitted(actions) == (token,)
    assert rig.sequence().tally.drafted_remote == 2
    assert messages_in(rig.submit(2), Open) == []


def test_local_goes_on_as_without_a_worker_and_remote_opens_again(rig):
    actions = ahead(rig, rig.submit())
    assert messages_in(switch(rig, LOCAL), Close) == [Close(1, 1)]
    actions = rig.answer(actions, 2, 3, 4)
    assert one(Draft, actions).count == 2
    actions = draft(rig, actions, 8, 9)
    back = switch(rig)
    (opened,) = messages_in(back, Open)
    assert (opened.epoch, opened.prefix_length, opened.tokens) == (2, len(PROMPT) + 1, (2, 3, 4))
    actions = rig.answer(actions, 8, 5)
    assert emitted(actions) == (8, 5)
    rig.drafts((*PROMPT, 1, 2, 3, 4), 2, [(ROOT, 8, -0.1), (0, 5, -0.2), (1, 6, -0.1)])
    assert rig.sequence().tree.best_path(9)[0].token == 6


def test_local_forgets_the_drafts_in_hand(rig):
    actions = rig.submit()
    rig.drafts(PROMPT, 1, [(ROOT, 1, -0.1), (0, 2, -0.2), (1, 3, -0.3)])
    switch(rig, LOCAL)
    assert one(Draft, rig.answer(actions, 1)).path == ()


def test_a_wait_for_the_worker_ends(rig):
    actions = rig.answer(rig.submit(policy="remote_sync"), 1)
    assert not of(Verify, actions)
    assert rig.controller.deadline() < rig.now + 100.0
    assert one(Draft, switch(rig, LOCAL)).count == 2
    rig.submit(2, policy="remote_sync")


def test_off_ends_a_wait_too(rig):
    rig.answer(rig.submit(policy="remote_sync"), 1)
    assert one(Verify, switch(rig, OFF)).drafts == ()
    assert rig.sequence().waited_ms is None


def test_an_answer_of_the_local_draft_that_comes_after_the_switch_is_dropped_or_used_exactly(rig):
    actions = rig.answer(rig.submit(policy="local"), 1)
    switch(rig, OFF)
    assert one(Verify, draft(rig, actions, 2, 3)).drafts == ()


def test_the_default_policy_changes_for_those_that_name_none(rig):
    named, default = rig.submit(1, policy="local", max_tokens=99), rig.submit(2, policy="", max_tokens=99)
    assert [rig.sequence(n).policy.name for n in (1, 2)] == ["local", "adaptive"]
    switch(rig, policy="local", k=3)
    assert rig.sequence(2).policy.name == "local"
    assert one(Draft, rig.answer(named, 1)).count == 2
    assert one(Draft, rig.answer(default, 1)).count == 3
    assert rig.submit(3, policy="")
    assert rig.sequence(3).policy.k == 3
    policy = rig.sequence(3).policy
    switch(rig, SHADOW, policy="local", k=3)
    assert rig.sequence(3).policy is policy, "what it has learnt stays"


def test_a_policy_that_drafts_otherwise_is_opened_again(rig):
    rig.submit(1, policy="")
    (opened,) = messages_in(switch(rig, policy="wanspec", width=2), Open)
    assert (opened.epoch, opened.drafting.width) == (2, 2)
    assert messages_in(switch(rig, policy="target_only"), Close) == [Close(1, 2)]


def test_a_default_policy_that_cannot_be_is_refused_and_nothing_changes(rig):
    with pytest.raises(InvalidRequestError, match=r"policy_parameters\.k"):
        switch(rig, OFF, policy="local", k=99)
    assert rig.controller.control == Control()


def test_shadow_counts_and_verifies_nothing_of_it(rig):
    switch(rig, SHADOW)
    actions = ahead(rig, rig.submit())
    assert messages_in(actions)[0].tokens == (1,), "the worker is kept in step"
    assert one(Draft, actions).count == 2
    actions = draft(rig, actions, 2, 8)
    assert one(Verify, actions).drafts == (2, 8)
    actions = rig.answer(actions, 2, 3)
    assert one(Draft, actions).path == ()
    actions = draft(rig, actions, 4, 4)
    actions = rig.answer(actions, 4, 4, 6)
    tally = rig.sequence().tally
    # The prefill foresaw nothing; then 2, 3 were there and both passes for nothing; then nothing was.
    assert tally.shadow == {"rounds": 3, "tokens": 6, "tokens_covered": 2, "passes": 4, "passes_covered": 2}
    assert (tally.drafted_remote, tally.drafted_local, tally.remote_draft_passes) == (0, 4, 1)
    assert Origin.REMOTE not in [origin for each in rig.sequence().rounds for origin in each.origins]
    assert state_of(rig.controller)["totals"]["shadow"]["passes_covered"] == 2
    assert finished(rig.do(Cancelled(1))).summary["shadow"]["tokens_covered"] == 2
    assert state_of(rig.controller)["totals"]["shadow"]["rounds"] == 3


def test_shadow_counts_what_the_worker_adds_to_local_drafts_in_hand(rig):
    switch(rig, SHADOW)
    actions = ahead(rig, rig.submit(policy="remote_sync", parameters={"k": 3}))
    assert one(Draft, actions).count == 3
    rig.sequence().shadow.drafted(0)
    rig.sequence().shadow.drafting(1, 2)  # one in hand, 2 and 3 in the worker's tree: one more pass spared
    rig.sequence().shadow.drafted(2)
    assert rig.sequence().tally.shadow["passes_covered"] == 1


def test_shadow_measures_the_worker_as_ever(rig):
    switch(rig, SHADOW)
    ahead(rig, rig.submit())
    rig.now += 40.0
    seen = rig.controller.estimators.state()
    rig.drafts((*PROMPT, 1), 1, [(2, 4, -0.3)], first=3, passes=2)
    assert rig.sequence().shadow.arrivals.heard_ms == rig.now
    assert rig.sequence().arrivals.heard_ms == 0.0
    assert seen["rtt"] == [30.0] * 3


def test_leaving_the_shadow_uses_the_worker(rig):
    switch(rig, SHADOW)
    actions = ahead(rig, rig.submit())
    (opened,) = messages_in(switch(rig), Open)
    assert opened.epoch == 2
    actions = draft(rig, actions, 2, 3)
    rig.drafts((*PROMPT, 1), 2, [(ROOT, 2, -0.1), (0, 3, -0.2), (1, 4, -0.3), (2, 5, -0.3)])
    actions = rig.answer(actions, 2, 3, 4)
    assert rig.sequence().shadow is None
    assert rig.sequence().tree.best_path(3)[0].origin is Origin.REMOTE


def test_switches_are_in_both_kinds_of_log(rig):
    lines = []
    rig.controller.logs._write = lines.append
    switch(rig, SHADOW)
    actions = ahead(rig, rig.submit(record=True, max_tokens=6))
    actions = rig.answer(draft(rig, actions, 2, 3), 2, 3, 4)
    switch(rig, OFF, policy="local", k=3)
    actions = rig.answer(draft(rig, actions, 7, 7), 5)
    end = finished(rig.answer(actions, 6))
    for log in (end.log, lines):
        (again,) = replay(log).values()
        assert again.finished is not None
        assert (again.tokens, again.finished.summary) == ([1, 2, 3, 4, 5, 6], end.summary)
    assert end.summary["shadow"]["rounds"] == 2


@pytest.mark.parametrize(("speculation", "opened"), [(OFF, 0), (LOCAL, 0), (SHADOW, 1), (REMOTE, 1)])
def test_a_link_that_comes_up_is_used_only_where_a_worker_is_wanted(speculation, opened):
    rig = Rig()
    rig.do(Controlled(Control(speculation)))
    rig.submit()
    assert len(messages_in(rig.link_up(), Open)) == opened


def test_hashes_go_on_over_trees(rig):
    actions = ahead(rig, rig.submit())
    switch(rig, SHADOW)
    actions = rig.answer(actions, 2, 3, 4)
    (commit,) = [m for m in messages_in(actions) if hasattr(m, "from_length")]
    assert (commit.from_length, commit.hash) == (4, hash_of([*PROMPT, 1, 2, 3, 4]))
