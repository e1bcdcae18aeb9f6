"""Sequences in a controller: the loop, ends, failures, and what a worker may say wrongly."""

from __future__ import annotations

import math

import pytest

from tests.unit.core.core_doubles import VOCAB, Rig, emitted, finished, hash_of, messages_in, of, one
from wanspec.core.costs import flat_costs
from wanspec.core.events import (
    Abort,
    Cancelled,
    Draft,
    Drafted,
    Emit,
    Failed,
    Finished,
    Tick,
    Verified,
    Verify,
)
from wanspec.core.messages import ROOT, Close, Commit, Lost, LostCode, Open, PassReport
from wanspec.core.policies import DraftLocally
from wanspec.core.policies.single_region import TargetOnly
from wanspec.core.tree import Origin
from wanspec.errors import InvalidRequestError

PROMPT = (5, 6, 7)


@pytest.fixture
def rig():
    """A controller without a link, as its first tick never comes."""
    return Rig()


@pytest.fixture
def linked():
    rig = Rig()
    rig.link_up()
    for _ in range(3):
        rig.controller.estimators.observe("rtt", 30.0)
    return rig


def draft(rig, actions, *tokens, log_prob=-0.1):
    action = one(Draft, actions)
    return rig.do(Drafted(action.action, tokens, (log_prob,) * len(tokens), 7.5 * len(tokens)))


# The loop


def test_a_local_round(rig):
    actions = rig.submit(policy="local")
    first = one(Verify, actions)
    assert (list(first.prefix[: first.length]), first.drafts) == ([5, 6, 7], ())
    actions = rig.answer(actions, 1)
    assert emitted(actions) == (1,)
    call = one(Draft, actions)
    assert (list(call.prefix[: call.length]), call.path, call.count) == ([5, 6, 7, 1], (), 2)
    actions = draft(rig, actions, 2, 3)
    assert one(Verify, actions).drafts == (2, 3)
    actions = rig.answer(actions, 2, 9)
    assert one(Emit, actions) == Emit(1, (2, 9), (Origin.LOCAL, Origin.TARGET))
    tally = rig.sequence().tally
    assert (tally.rounds, tally.drafted_local, tally.accepted_local, tally.local_draft_passes) == (2, 2, 1, 2)
    last = rig.sequence().rounds[-1]
    assert (last.drafted, last.accepted, last.committed, last.length) == ((2, 3), 1, (2, 9), 4)


def test_a_remote_round(linked):
    actions = linked.submit()
    assert messages_in(actions, Open)[0].tokens == PROMPT
    linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1), (0, 2, -0.2), (1, 3, -0.3)])
    actions = linked.answer(actions, 1)
    assert one(Verify, actions).drafts == (2, 3)
    assert messages_in(actions) == [Commit(1, 1, 3, hash_of([*PROMPT, 1]), (1,))]
    actions = linked.answer(actions, 2, 3, 4)
    assert one(Emit, actions).origins == (Origin.REMOTE, Origin.REMOTE, Origin.TARGET)


def test_drafts_end_a_wait(linked):
    linked.now += 100.0
    actions = linked.answer(linked.submit(max_tokens=9), 1)
    assert one(Draft, actions).count == 1  # the worker cannot have the prompt yet
    linked.now += 30.0
    assert draft(linked, actions, 2) == []
    assert linked.controller.deadline() == linked.now + 30.0
    linked.now += 10.0
    actions = linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1), (0, 2, -0.2), (1, 3, -0.3)])
    assert one(Verify, actions).drafts == (2, 3)
    assert linked.sequence().tally.waited_ms == 10.0


def test_a_wait_ends_at_its_deadline_and_the_worker_is_overdue_until_it_speaks(linked):
    linked.now += 100.0
    actions = linked.answer(linked.submit(max_tokens=9), 1)
    linked.now += 30.0
    assert draft(linked, actions, 2) == []
    assert linked.do(Tick(), linked.now + 29.9) == []
    actions = linked.do(Tick(), linked.now + 0.1)
    assert one(Draft, actions).count == 1
    sequence = linked.sequence()
    assert sequence.overdue
    assert (sequence.tally.waits, sequence.tally.wait_timeouts) == (1, 1)
    actions = draft(linked, actions, 3)
    assert one(Verify, actions).drafts == (2, 3)
    actions = linked.answer(actions, 2, 9)
    assert one(Draft, actions).count == 2  # overdue: standard speculative decoding, no wait
    linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1)])
    assert not sequence.overdue


class Drafting(TargetOnly):
    """Drafts locally, whatever is in hand: after a child of the root that is not the best one, or the best path."""

    def __init__(self, off_path):
        self.off_path = off_path

    def decide(self, view, now):
        root = view.tree.root
        if not self.off_path:
            return DraftLocally(1, "test")
        other = view.tree.add(root, 12, -0.5, Origin.LOCAL, now)
        view.tree.add(root, 13, -0.1, Origin.REMOTE, now)
        return DraftLocally(1, "test", (other,))


def test_a_local_draft_goes_on_from_the_path_that_the_policy_means():
    rig = Rig()
    actions = rig.submit(policy="local")
    rig.sequence().policy = Drafting(off_path=True)
    assert one(Draft, rig.answer(actions, 1)).path == (12,)


def test_no_policy_drafts_for_ever():
    rig = Rig(max_draft=4)
    actions = rig.submit(policy="local", max_tokens=40)
    rig.sequence().policy = Drafting(off_path=False)
    actions = rig.answer(actions, 1)
    for token in range(4):
        actions = draft(rig, actions, token)
    assert one(Verify, actions).drafts == (0, 1, 2, 3)


def test_a_policy_sees_the_costs_that_were_measured():
    costs = flat_costs(23.4)
    rig = Rig(verify_costs=costs)
    rig.submit()
    view = rig.controller.sequences[1]
    assert (view.verify_costs, view.draft_costs) == (costs, None)


def test_drafts_are_clipped_to_the_engines_limit():
    rig = Rig(max_draft=1)
    actions = draft(rig, rig.answer(rig.submit(policy="local", parameters={"k": 8}), 1), 2)
    assert one(Verify, actions).drafts == (2,)
    rig = Rig(max_draft=0)
    assert one(Verify, rig.answer(rig.submit(policy="local"), 1)).drafts == ()


# Ends


@pytest.mark.parametrize(
    ("drafts", "answer", "output"),
    [
        ((1, 0), (1, 0, 9), (1,)),  # the end token was an accepted draft
        ((0, 2), (0, 2, 9), ()),
        ((1, 0), (1, 0), (1,)),  # the engine itself stopped at an accepted end token
        ((1, 2), (1, 2, 0), (1, 2)),  # the end token is the target's own
        ((1, 2), (0,), ()),
    ],
)
def test_end_token(rig, drafts, answer, output):
    actions = rig.answer(rig.submit(policy="local", end_ids=frozenset({0})), 4)
    actions = rig.answer(draft(rig, actions, *drafts), *answer)
    assert emitted(actions) == output
    assert finished(actions).reason == "stop"
    assert finished(actions).summary["output_tokens"] == 1 + len(output)
    assert not rig.controller.sequences


@pytest.mark.parametrize(("max_tokens", "drafts"), [(1, None), (2, None), (3, 1), (4, 2)])
def test_max_tokens_clips_drafts_and_output(rig, max_tokens, drafts):
    actions = rig.answer(rig.submit(policy="local", max_tokens=max_tokens), 1)
    if max_tokens == 1:
        assert (emitted(actions), finished(actions).reason) == ((1,), "length")
        return
    if drafts is not None:
        actions = draft(rig, actions, *range(2, 2 + drafts))
    assert len(one(Verify, actions).drafts) == (drafts or 0)
    actions = rig.answer(actions, *range(2, 1 + max_tokens))
    assert finished(actions).reason == "length"
    assert finished(actions).summary["output_tokens"] == max_tokens


def test_cancel_in_every_state(linked):
    linked.now += 100.0
    verifying = linked.submit()
    actions = linked.do(Cancelled(1))
    assert one(Abort, actions).action == one(Verify, verifying).action
    assert (finished(actions).reason, messages_in(actions)) == ("cancelled", [Close(1, 1)])
    assert linked.answer(verifying, 1) == []

    drafting = linked.answer(linked.submit(2), 1)
    actions = linked.do(Cancelled(2))
    assert one(Abort, actions).action == one(Draft, drafting).action
    assert draft(linked, drafting, 4) == []

    drafting = linked.answer(linked.submit(3), 1)
    linked.now += 30.0
    assert draft(linked, drafting, 2) == []  # waiting
    actions = linked.do(Cancelled(3), linked.now + 5)
    assert of(Abort, actions) == []
    assert finished(actions).summary["waited_ms"] == 5.0
    assert linked.do(Cancelled(3)) == []
    assert linked.do(Cancelled(99)) == []
    assert not linked.controller.sequences


def test_a_requests_own_deadline(rig):
    actions = rig.submit(deadline_ms=50)
    assert not of(Finished, rig.do(Tick(), rig.now + 49))
    actions = rig.do(Tick(), rig.now + 1)
    assert (finished(actions).reason, finished(actions).error) == ("deadline", "deadline_ms: 50 ms have passed")
    assert of(Abort, actions)


# Engines


def test_a_failed_verification_is_tried_again_once_and_then_fails(rig):
    actions = rig.submit()
    actions = rig.do(Failed(one(Verify, actions).action, "boom"))
    actions = rig.answer(actions, 1)  # success gives the retry back
    for _ in range(2):
        actions = draft(rig, actions, 2, 3) if of(Draft, actions) else actions
        actions = rig.do(Failed(one(Verify, actions).action, "boom"))
    assert (finished(actions).reason, finished(actions).error) == ("error", "boom")
    assert finished(actions).summary["engine_retries"] == 2


def test_an_engine_that_does_not_answer(rig):
    actions = rig.submit()
    late = one(Verify, actions).action
    actions = rig.do(Tick(), rig.now + 60_000)
    assert one(Abort, actions).action == late
    again = one(Verify, actions).action
    assert rig.do(Verified(late, (1,), (), 1.0)) == []
    assert again != late
    actions = rig.do(Tick(), rig.now + 60_000)
    assert finished(actions).error == "the target did not answer within 60000 ms"


@pytest.mark.parametrize("failure", ["error", "timeout"])
def test_without_the_local_draft_decoding_goes_on(rig, failure):
    actions = rig.answer(rig.submit(policy="local"), 1)
    if failure == "error":
        actions = rig.do(Failed(one(Draft, actions).action, "boom"))
    else:
        actions = rig.do(Tick(), rig.now + 60_000)
    for token in (2, 3):
        assert one(Verify, actions).drafts == ()
        actions = rig.answer(actions, token)
    assert rig.sequence().tally.causes["local draft failed"] == 1


@pytest.mark.parametrize(
    ("tokens", "log_probs"),
    [((), ()), ((1, 2, 3), ()), ((VOCAB,), ()), ((-1,), ()), ((1,), (math.nan,)), ((1, 2), (0.0,))],
)
def test_a_local_draft_that_answers_nonsense_has_failed(rig, tokens, log_probs):
    actions = rig.answer(rig.submit(policy="local"), 1)
    actions = rig.do(Drafted(one(Draft, actions).action, tokens, log_probs, 1.0))
    assert one(Verify, actions).drafts == ()
    assert rig.sequence().tally.causes["local draft failed"] == 1
    assert rig.controller.estimators.median("draft") is None


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ((), "target engine: 0 tokens, expected 1 to 3"),
        ((2, 3, 4, 5), "target engine: 4 tokens, expected 1 to 3"),
        ((9, 4), "target engine: accepted token 9 at 0, the draft there is 2"),
        ((2, 9, 4), "target engine: accepted token 9 at 1, the draft there is 3"),
        ((2, VOCAB), f"target engine: token {VOCAB} at 1 is outside 0 to {VOCAB - 1}"),
        ((-1,), f"target engine: token -1 at 0 is outside 0 to {VOCAB - 1}"),
    ],
)
def test_a_target_that_breaks_its_contract_commits_nothing(rig, tokens, error):
    actions = draft(rig, rig.answer(rig.submit(policy="local"), 1), 2, 3)
    before = list(rig.sequence().tree.tokens)
    for _ in range(2):
        assert one(Verify, actions).drafts == (2, 3)
        actions = rig.answer(actions, *tokens)
        assert of(Emit, actions) == []
    assert (finished(actions).reason, finished(actions).error) == ("error", error)
    assert finished(actions).summary["output_tokens"] == len(before) - len(PROMPT)


def test_an_answer_of_the_wrong_engine_is_a_failed_call(rig):
    actions = rig.submit()
    actions = rig.do(Drafted(one(Verify, actions).action, (1,), (), 1.0))
    assert of(Verify, actions)
    assert rig.sequence().tally.engine_retries == 1


@pytest.mark.parametrize("log_probs", [(), (math.nan,), (-0.1, -0.1), (900.0,)])
def test_odd_log_probabilities_of_the_target_harm_nothing(linked, log_probs):
    actions = linked.do(Verified(one(Verify, linked.submit()).action, (1,), log_probs, 20.0))
    assert emitted(actions) == (1,)


# Requests


@pytest.mark.parametrize(
    ("number", "request_", "match"),
    [
        (1, {"prompt": ()}, "^prompt: is empty; at least 1 token is needed"),
        (1, {"max_tokens": 0}, "^max_tokens: 0 is below the limit of 1"),
        (1, {"max_tokens": -3}, "^max_tokens: -3 is below"),
        (1, {"prompt": (1, VOCAB)}, "^input_ids: token 100 at 1 is outside 0 to 99"),
        (1, {"prompt": (-1,)}, "^input_ids: token -1 at 0"),
        (1, {"max_tokens": 1022}, "^max_tokens: 3 prompt tokens . 1022 make 1025, the context of the target is 1024"),
        (1, {"policy": "fastest"}, "^policy: 'fastest' is unknown"),
        (1, {"parameters": {"k": 0}}, "^policy_parameters.k: 0 is outside 1 to 32"),
        (1, {"deadline_ms": -1}, "^deadline_ms: -1 is not"),
        (1, {"deadline_ms": math.nan}, "^deadline_ms: nan is not"),
        (1, {"traceparent": "x" * 257}, "^traceparent: is not at most 256 ASCII characters"),
        (1, {"traceparent": "é"}, "^traceparent"),
        (9, {}, "^sequence: 9 is already in use"),
        (1 << 32, {}, "^sequence: 4294967296 is outside 0 to 4294967295"),
        (-1, {}, "^sequence: -1 is outside"),
    ],
)
def test_bad_requests_name_field_and_limit_and_disturb_nobody(linked, number, request_, match):
    running = linked.submit(9)
    with pytest.raises(InvalidRequestError, match=match):
        linked.submit(number, **{"prompt": PROMPT, **request_})
    assert list(linked.controller.sequences) == [9]
    assert emitted(linked.answer(running, 1)) == (1,)


def test_the_largest_request_is_served(rig):
    assert of(Verify, rig.submit((1 << 32) - 1, max_tokens=1021))


# What a worker may say wrongly


@pytest.mark.parametrize(
    ("tokens", "nodes", "digest"),
    [
        (PROMPT, [(5, 1, -0.1)], None),  # unknown parent
        (PROMPT, [(ROOT, VOCAB, -0.1)], None),
        (PROMPT, [(ROOT, 1, math.nan)], None),
        (PROMPT, [(ROOT, 1, -0.1)], 1),  # another prefix of the same length
        ((5, 6, 7, 1), [(ROOT, 1, -0.1)], None),  # a prefix longer than what is committed
        ((), [(ROOT, 1, -0.1)], None),
    ],
)
def test_drafts_that_do_not_agree_open_a_new_epoch(linked, tokens, nodes, digest):
    linked.submit()
    actions = linked.drafts(tokens, 1, nodes, digest=digest, first=10)
    (opened,) = messages_in(actions)
    assert (opened.epoch, opened.tokens) == (2, PROMPT)
    assert linked.sequence().tally.desyncs == 1
    linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1)], first=50)
    assert linked.sequence().tally.stale_nodes == 1  # the old epoch's


def test_drafts_in_arrears_are_normal(linked):
    actions = linked.answer(linked.submit(), 1)
    assert linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1), (0, 2, -0.2), (ROOT, 3, -0.3), (2, 4, -0.1)]) == []
    sequence = linked.sequence()
    assert (sequence.tally.desyncs, sequence.tally.stale_nodes, sequence.tree.size) == (0, 2, 1)
    linked.drafts((*PROMPT, 1), 1, [(1, 8, -0.1)], first=4, passes=2)
    assert sequence.tree.size == 2
    assert sequence.tally.remote_draft_passes == 2
    assert of(Draft, actions)


def test_duplicate_drafts_count_once(linked):
    linked.submit()
    for _ in range(3):
        linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1)])
    tally = linked.sequence().tally
    assert (tally.remote_nodes, tally.remote_draft_passes, linked.sequence().tree.size) == (1, 1, 1)


def test_foreign_drafts_are_counted(linked):
    linked.submit()
    assert linked.drafts(PROMPT, 1, [(ROOT, 1, -0.1)], number=77) == []
    assert linked.hear(Lost(77, 1, LostCode.GAP, 3)) == []
    assert linked.link.counters.foreign == 2


@pytest.mark.parametrize("code", LostCode)
def test_lost_sequences_are_opened_again_unless_it_would_be_no_use(linked, code):
    linked.submit()
    assert linked.hear(Lost(1, 7, code, 3)) == []  # another epoch's
    opened = messages_in(linked.hear(Lost(1, 1, code, 3)), Open)
    again = code not in (LostCode.CONTEXT, LostCode.BUSY)
    assert [m.epoch for m in opened] == ([2] if again else [])
    assert linked.sequence().worker_ready is again
    counted = LostCode.DESYNC if code is LostCode.PREFIX else code  # no prefix was named
    assert linked.sequence().tally.lost == {counted.name.lower(): 1}


def test_a_worker_that_always_loses_is_left_alone(linked):
    linked.submit()
    for epoch in range(1, 20):
        linked.hear(Lost(1, epoch, LostCode.ENGINE, 3))
    assert linked.sequence().tally.epochs == 9
    assert not linked.sequence().worker_ready


def test_a_pass_time_that_cannot_be_lengthens_no_wait(linked):
    for value in (math.nan, math.inf, -5.0):
        linked.hear(PassReport(value, 0.0, 1, 1))
    assert linked.controller.estimators.median("pass") is None


def test_answers_nobody_waits_for_are_ignored(linked):
    actions = linked.submit()
    good = one(Verify, actions).action
    for action in ((1, 99), (2, 1), (good[0], good[1] + 1)):
        assert linked.do(Verified(action, (1,), (), 1.0)) == []
        assert linked.do(Failed(action, "late")) == []
    following = linked.answer(actions, 1)
    assert linked.answer(actions, 1) == []
    assert of(Draft, following)


def test_messages_only_controllers_send_are_foreign(linked):
    linked.hear(Open(1, 1, (1,), 1))
    assert linked.link.counters.foreign == 1
    assert linked.link.up


def test_passes_are_counted_once_whatever_the_order(linked):
    linked.submit()
    for passes in (3, 1, 3, 4):
        linked.drafts(PROMPT, 1, [], passes=passes)
    assert linked.sequence().tally.remote_draft_passes == 4
    linked.hear(Lost(1, 1, LostCode.ENGINE, 3))
    linked.drafts(PROMPT, 2, [], passes=1)  # counted anew in a new epoch
    assert linked.sequence().tally.remote_draft_passes == 5


def test_node_numbers_begin_again_in_a_new_epoch(linked):
    linked.submit()
    linked.drafts(PROMPT, 1, [(ROOT, 1, -0.5)])
    linked.hear(Lost(1, 1, LostCode.ENGINE, 3))
    linked.drafts(PROMPT, 2, [(ROOT, 2, -0.1), (0, 3, -0.1)])
    assert [n.token for n in linked.sequence().tree.best_path(9)] == [2, 3]
