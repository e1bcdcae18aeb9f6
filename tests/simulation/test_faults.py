"""The production controller and worker under seeded schedules of faults."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from tests.simulation.sim_doubles import ENGINE_MS, Corrupting, Play, from_seed, schedules
from wanspec.core.eventlog import read_log
from wanspec.core.replay import replay
from wanspec.simulation.world import Costs

COSTS = Costs()


def expected(planned, request):
    """Target-only output; the pair's end token is an ordinary one where the request does not name it."""
    tokens = list(request.prompt)
    for _ in range(request.max_tokens):
        token = planned.pair.target(tokens)
        if token in request.end_ids:
            break
        tokens.append(token)
    return tokens[len(request.prompt) :]


def check(played):
    """What holds for every run, whatever went wrong."""
    check_tokens(played)
    for number, output in played.world.outputs.items():
        check_times(played.planned, played.planned.requests[number][1], output)
    assert not played.world.controller.sequences


def check_tokens(played):
    """Every request has ended, with the target's own output or, where it failed, the beginning of that."""
    planned = played.planned
    assert set(played.world.outputs) == set(range(len(planned.requests)))
    for number, output in played.world.outputs.items():
        request = planned.requests[number][1]
        whole = expected(planned, request)
        reason = output.finished.reason
        if reason in ("stop", "length"):
            assert output.tokens == whole
            assert reason == ("length" if len(whole) == request.max_tokens else "stop")
        else:
            assert reason in ("error", "cancelled")
            assert output.tokens == whole[: len(output.tokens)]


def check_times(planned, request, output):
    """Every millisecond is a target step, a local draft step, a stated wait, or the deadline of a failed call."""
    summary = output.finished.summary
    k = request.parameters.get("k", 0)
    limit = max(25.0, 2 * planned.longest_way_ms + 2 * COSTS.pass_ms)
    if request.policy == "remote_sync":
        limit += k * COSTS.pass_ms
    assert summary["waited_ms"] <= summary["waits"] * limit + 0.01
    assert summary["wait_timeouts"] <= summary["waits"] <= 2 * summary["rounds"] + summary["engine_retries"] + 1
    steps = summary["rounds"] * COSTS.target_ms + summary["local_draft_passes"] * COSTS.draft_ms
    failed_drafts = summary["causes"].get("local draft failed", 0)
    failed = summary["engine_retries"] + failed_drafts + (output.finished.reason in ("error", "cancelled"))
    spare = summary["latency_ms"] - steps - summary["waited_ms"]
    assert -0.01 <= spare <= failed * max(ENGINE_MS, COSTS.target_ms, k * COSTS.draft_ms) + 0.01
    assert summary["rounds"] <= len(output.tokens) + 1
    assert failed_drafts <= 1


def check_settled(played):
    """Nothing is left of any request, in either region."""
    played.settle()
    worker = played.world.worker
    assert not worker.sequences
    assert worker._passes.under_way is None
    assert played.world.controller.links[0].up


@pytest.mark.parametrize("seed", range(40))
def test_seeded_faults(seed):
    played = Play(from_seed(seed)).run()
    check(played)
    check_settled(played)


@pytest.mark.parametrize("seed", range(300, 330))
def test_damaged_frames_change_no_token_and_raise_nothing(seed):
    played = Play(from_seed(seed), world=Corrupting).run()
    check_tokens(played)
    counters = played.world.controller.links[0].counters
    assert played.world.damaged > 0 or counters.frames_up + counters.frames_down < 30


@given(schedules())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_faults(planned):
    played = Play(planned).run()
    check(played)
    check_settled(played)


@pytest.mark.parametrize("seed", range(100, 112))
def test_the_same_seed_is_the_same_run_and_its_log_replays(seed):
    logs = []
    for _ in range(2):
        lines = []
        played = Play(from_seed(seed), log=lines.append).run()
        logs.append("\n".join(lines))
    assert logs[0] == logs[1]
    again = replay(logs[0].splitlines())
    assert set(again) == set(played.world.outputs)
    for number, output in played.world.outputs.items():
        assert_replayed(again[number], output, played.sequences[number])


@pytest.mark.parametrize("seed", range(200, 212))
def test_the_log_of_each_request_replays_alone(seed):
    planned = from_seed(seed)
    played = Play(planned).run()
    recorded = 0
    for number, (_, request) in enumerate(planned.requests):
        output = played.world.outputs[number]
        assert bool(output.finished.log) is request.record
        if not request.record:
            continue
        recorded += 1
        again = replay(output.finished.log)
        assert list(again) == [number]
        assert_replayed(again[number], output, played.sequences[number])
        assert_holds_no_others_tokens(output.finished.log, number)
    assert recorded or not any(r.record for _, r in planned.requests)


def assert_replayed(again, output, sequence):
    assert again.tokens == output.tokens
    assert again.rounds == sequence.rounds
    assert again.finished.reason == output.finished.reason
    assert again.finished.error == output.finished.error
    assert again.finished.summary == output.finished.summary


def assert_holds_no_others_tokens(lines, number):
    from wanspec.core.events import Received
    from wanspec.core.messages import Drafts
    from wanspec.core.wire import decode

    for _, event in read_log(lines)[2]:
        if isinstance(event, Received):
            drafts = [m for m in decode(event.data).messages if isinstance(m, Drafts)]
            assert all(m.sequence == number for m in drafts)


@pytest.mark.parametrize("seed", range(12))
def test_adaptive_under_faults(seed):
    """Waits follow forecasts, so that their lengths are not those of the other policies; tokens and leftovers are."""
    planned = from_seed(seed)
    requests = tuple(
        (time, replace(request, policy="adaptive", parameters={} if number % 2 else {"latency_target": 1.0, "k": 3}))
        for number, (time, request) in enumerate(planned.requests)
    )
    played = Play(replace(planned, requests=requests)).run()
    check_tokens(played)
    check_settled(played)
    for output in played.world.outputs.values():
        assert output.finished.summary["wait_timeouts"] <= output.finished.summary["waits"]
