"""Who begins, who waits, who is refused; and that a log of one that waited replays alone."""

from __future__ import annotations

import math

import pytest

from tests.unit.core.core_doubles import Rig, emitted, finished, of, one
from wanspec.core.events import Cancelled, Finished, Request, Submitted, Tick, Verify
from wanspec.core.replay import replay
from wanspec.core.totals import state_of
from wanspec.errors import BusyError, InvalidRequestError


def submit(rig, number, **request):
    return rig.submit(number, **{"policy": "target_only", "max_tokens": 1} | request)


def test_what_does_not_fit_waits_and_begins_in_order():
    rig = Rig(max_sequences=2)
    first, second = submit(rig, 1), submit(rig, 2)
    assert submit(rig, 3) == submit(rig, 4) == []
    assert list(rig.controller.sequences) == [1, 2]
    rig.now += 10.0
    actions = rig.answer(second, 9)
    assert (finished(actions).sequence, one(Verify, actions).action[0]) == (2, 3)
    actions = rig.answer(first, 9)
    assert one(Verify, actions).action[0] == 4
    summary = finished(rig.answer(actions, 9)).summary
    assert (summary["queued_ms"], summary["latency_ms"], summary["ttft_ms"]) == (10.0, 10.0, 10.0)
    assert not rig.controller.admission.waiting


def test_tokens_are_reserved_and_a_large_request_is_not_overtaken():
    rig = Rig(max_reserved_tokens=20)
    first = submit(rig, 1, max_tokens=7)  # with its prompt, 10 tokens
    assert submit(rig, 2, max_tokens=9) == []
    assert submit(rig, 3) == []
    assert rig.controller.admission.reserved == 10
    rig.do(Cancelled(1))
    assert list(rig.controller.sequences) == [2, 3]
    assert rig.controller.admission.reserved == 16
    assert of(Verify, first)
    with pytest.raises(InvalidRequestError, match=r"max_tokens: 3 prompt tokens \+ 18 make 21, .* is 20"):
        submit(rig, 9, max_tokens=18)


@pytest.mark.parametrize("queue", [0, 2])
def test_the_queue_is_bounded_and_a_refusal_changes_nothing(queue):
    rig = Rig(max_sequences=1, max_queue=queue)
    running = submit(rig, 1)
    for number in range(2, 2 + queue):
        submit(rig, number)
    with pytest.raises(BusyError, match=f"^busy: 1 requests are under way and {queue} wait, .* is {queue}; try again"):
        submit(rig, 9)
    assert len(rig.controller.admission.waiting) == queue
    assert finished(rig.answer(running, 9)).reason == "length"
    assert state_of(rig.controller)["totals"]["ended"] == {"busy": 1, "length": 1}
    submit(rig, 9)


def test_deadlines_pass_and_clients_leave_while_they_wait():
    rig = Rig(max_sequences=1, links=0)
    running = submit(rig, 1)
    submit(rig, 2, deadline_ms=50.0)
    submit(rig, 3)
    submit(rig, 4, deadline_ms=20.0)
    assert finished(rig.do(Cancelled(3))).reason == "cancelled"
    assert rig.controller.deadline() == rig.now + 20.0
    end = finished(rig.do(Tick(), rig.now + 20.0))
    assert (end.sequence, end.reason, end.error) == (4, "deadline", "deadline_ms: 20 ms have passed")
    assert end.summary["queued_ms"] == 20.0
    assert rig.controller.deadline() == rig.now + 30.0
    assert rig.do(Cancelled(4)) == []
    actions = rig.answer(running, 9)
    assert one(Verify, actions).action[0] == 2
    assert finished(rig.do(Tick(), rig.now + 30.0)).reason == "deadline"
    assert rig.controller.admission.running == rig.controller.admission.reserved == 0
    assert rig.controller.admission.deadline() == math.inf


def test_a_number_that_waits_is_in_use():
    rig = Rig(max_sequences=1)
    submit(rig, 1)
    submit(rig, 2)
    with pytest.raises(InvalidRequestError, match="already in use"):
        submit(rig, 2)


def test_the_log_of_a_request_that_waited_replays_alone():
    rig = Rig(max_sequences=1)
    running = submit(rig, 1)
    submit(rig, 2, max_tokens=2, record=True)
    rig.now += 33.0
    actions = rig.answer(running, 9)
    rig.now += 5.0
    actions = rig.answer(actions, 7)
    end = finished(rig.answer(actions, 8))
    (again,) = replay(end.log).values()
    assert again.finished is not None
    assert (again.tokens, again.finished.summary) == ([7, 8], end.summary)
    assert end.summary["queued_ms"] == 33.0


def test_a_whole_log_replays_the_queue():
    lines = []
    rig = Rig(max_sequences=1)
    rig.controller.logs._write = lines.append
    actions = submit(rig, 1)
    submit(rig, 2)
    for token in (7, 8):
        actions = rig.answer(actions, token)
        assert emitted(actions) == (token,)
    assert [each.tokens for each in replay(lines).values()] == [[7], [8]]


def test_no_limits_by_default():
    rig = Rig()
    for number in range(300):
        rig.do(Submitted(number, Request((5,), 900, policy="target_only")))
    assert len(rig.controller.sequences) == 300
    assert of(Finished, rig.do(Cancelled(7)))
