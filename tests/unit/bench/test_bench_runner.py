"""What is asked, in which order, and what is kept of it."""

from __future__ import annotations

import pytest

from tests.unit.bench.bench_doubles import FakeMeter, FakeSession
from wanspec.bench import runner as module
from wanspec.bench.runner import Plan, Runner
from wanspec.errors import ServerError
from wanspec.prompts import Prompt
from wanspec.simulation.setup import Contender

PROMPTS = tuple(Prompt("math", f"question {n}", f"{n} begins") for n in range(4))
LOCAL, SPLIT, ALONE = Contender("local", {"k": 2}, "local"), Contender("adaptive"), Contender("target_only")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_MS", 0.0)


def run(session, contenders=(LOCAL, SPLIT, ALONE), rtts=(30.0,), concurrencies=(1,), set_rtt=None, **plan):
    told = []
    made = Plan(contenders, rtts, concurrencies, PROMPTS, 3, time_scale=0.01, **plan)
    bench = Runner(session, made, FakeMeter(), set_rtt, tell=told.append)
    bench.run()
    assert sum(told) == made.requests
    return bench


def test_policies_take_turns_and_each_is_first_once():
    session = FakeSession()
    bench = run(session)
    order = [(s.prompt, s.policy) for s in bench.samples]
    assert order[:6] == [
        (0, "local"), (0, "adaptive"), (0, "target_only"), (1, "adaptive"), (1, "target_only"), (1, "local"),
    ]  # fmt: skip
    assert len(order) == 12
    assert [policy for policy, _ in session.asked[:4]] == ["target_only"] * 4  # the references
    assert [policy for policy, _ in session.asked[4:7]] == ["local", "adaptive", "target_only"]  # warm-up
    assert all(s.exact for s in bench.samples)
    assert session.asked[0][1] == "0 begins"  # it does not chat


def test_as_many_as_run_at_once_are_asked_before_any_is_awaited():
    session = FakeSession()
    bench = run(session, contenders=(LOCAL,), concurrencies=(3,))
    assert [s.prompt for s in bench.samples] == [0, 1, 2, 3, 0, 1]  # the last group is filled from the beginning
    assert [u.concurrency for u in bench.usages] == [3, 3]
    assert bench.usages[0].tokens == 9
    assert all(pending.cancelled for pending in session.pending)


def test_what_is_used_is_what_counters_have_moved():
    (first, *_) = run(FakeSession(), contenders=(LOCAL,)).usages
    assert (first.wan_up, first.wan_down) == (200, 400)
    assert first.cpu_ms == {"controller": 10.0}
    assert first.busy == 0.5
    assert first.own_busy == 1.0


def test_an_output_that_differs_is_told_and_the_others_are_not_blamed():
    bench = run(FakeSession(wrong="adaptive"))
    assert {s.policy: s.exact for s in bench.samples} == {"local": True, "adaptive": False, "target_only": True}
    assert {s.divergences for s in bench.samples if s.policy == "adaptive"} == {1}


def test_a_round_trip_is_set_scaled_and_waited_for():
    session, given = FakeSession(rtts=[*[0.3] * 8, 9.0, 9.0, 0.6, 0.6]), []
    bench = run(session, rtts=(30.0, 60.0), set_rtt=given.append)
    assert given == pytest.approx([0.3, 0.6])
    assert bench.notes == []
    never = run(FakeSession(rtts=(900.0,)), set_rtt=given.append)
    assert "At RTT 30 ms the endpoint measured 900 ms" in never.notes[0]


def test_prompts_without_an_answer_are_left_out():
    session = FakeSession(short="1 begins")
    bench = Runner(session, Plan((LOCAL,), (30.0,), (1,), PROMPTS, 3, time_scale=0.01), FakeMeter(), None)
    bench.run()
    assert [s.prompt for s in bench.samples] == [0, 2, 3]
    assert "Prompt 1 is left out" in bench.notes[0]
    alone = Plan((LOCAL,), (30.0,), (1,), PROMPTS[1:2], 3)
    with pytest.raises(ServerError, match="--ignore-end"):
        Runner(FakeSession(short="1 begins"), alone, FakeMeter(), None).run()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ServerError("gone")])
def test_a_failure_ends_the_requests_under_way(error):
    session = FakeSession()
    session.fails = error
    with pytest.raises(type(error)):
        run(session)
    assert len(session.pending) == 4
    assert all(pending.cancelled for pending in session.pending)
