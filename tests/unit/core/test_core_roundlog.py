from __future__ import annotations

import pytest

from tests.unit.core.core_doubles import Bench, Rig, messages_in, of, one
from wanspec.core.events import Cancelled, Finished, Traced, Verified, Verify
from wanspec.core.messages import ROOT, Close, Lost, LostCode, Open
from wanspec.core.roundlog import Flight
from wanspec.core.rounds import StepKind
from wanspec.core.workersequence import is_sampled

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize(
    ("sent", "rtt", "arrived", "waited", "network", "worker"),
    [
        (0.0, 30.0, 50.0, (0.0, 50.0), 30.0, 20.0),  # the wait began with the commit
        (0.0, 30.0, 50.0, (20.0, 50.0), 15.0, 15.0),  # the commit had arrived before
        (0.0, 30.0, 50.0, (10.0, 50.0), 20.0, 20.0),  # it was under way
        (0.0, 30.0, 50.0, (40.0, 50.0), 10.0, 0.0),  # the drafts were under way
        (0.0, 30.0, 50.0, (0.0, 60.0), 0.0, 0.0),  # something else ended it
        (0.0, 80.0, 50.0, (0.0, 50.0), 50.0, 0.0),  # a round trip that was shorter than usual
        (0.0, 0.0, 50.0, (5.0, 50.0), 0.0, 45.0),
        (-500.0, 30.0, 50.0, (0.0, 50.0), 15.0, 35.0),  # drafts after an old commit
    ],
)
def test_a_wait_is_split_into_network_and_worker(sent, rtt, arrived, waited, network, worker):
    assert Flight(sent, rtt, arrived).split(*waited) == pytest.approx((network, worker))


def test_events_of_a_round():
    rig = Rig(local_draft=True)
    rig.link_up()
    rig.submit()
    rig.hear(Lost(1, 1, LostCode.ENGINE, 3))
    rig.drafts((5, 6, 7), 2, [(ROOT, 1, -0.1)], digest=1)
    what = [event for _, event in rig.sequence().log.current.events]
    assert what == ["worker opens it", "worker lost it: engine", "worker opens it", "desync", "worker opens it"]


def test_an_end_amid_a_round_leaves_that_round_too():
    rig = Rig()
    actions = rig.submit(policy="target_only")
    verify = one(Verify, actions)
    rig.now += 20.0
    rig.do(Verified(verify.action, (1,), (-0.1,), 15.0))
    rig.now += 7.0
    finished = one(Finished, rig.do(Cancelled(1)))
    first, last = finished.rounds
    assert (first.committed, last.committed) == ((1,), ())
    (step,) = last.steps
    assert (step.kind, step.cause, step.ended_ms - step.began_ms) == (StepKind.VERIFY, "cancelled", 7.0)
    assert first.queued_ms == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [(TRACEPARENT, True), (TRACEPARENT[:-2] + "00", False), (TRACEPARENT[:-2] + "03", True), ("", False), ("x", False)],
)
def test_only_sampled_traces_are_recorded(traceparent, sampled):
    assert is_sampled(traceparent) is sampled


@pytest.mark.parametrize("traceparent", [TRACEPARENT, ""])
def test_a_worker_tells_what_it_did_for_a_traced_sequence(traceparent):
    bench = Bench()
    bench.greet()
    rig = Rig()
    rig.link_up()
    message = one(Open, messages_in(rig.submit(traceparent=traceparent), Open))
    actions = bench.steer(message)
    bench.now += 10.0
    bench.expand(actions, 9, 8)
    ended = of(Traced, bench.steer(Close(1, 1)))
    if not traceparent:
        assert not ended
        return
    record = one(Traced, ended).record
    assert (record.number, record.epoch, record.traceparent, record.ended) == (1, 1, TRACEPARENT, "closed")
    (done,) = record.passes
    assert (done.leaves, done.engine_ms, done.queue_ms, done.ended_ms - done.began_ms) == (1, 7.5, 2.5, 10.0)
    assert done.nodes >= 1
