"""After a fault: no stall beyond the stated deadline, the same output, and drafting that resumes."""

from __future__ import annotations

import itertools

import pytest

from tests.simulation.sim_doubles import FINGERPRINT
from wanspec.core.config import ControllerConfig, LinkConfig, WorkerConfig
from wanspec.core.events import Request
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Weather, World

PAIR = HashedPair(match=0.8)
PROMPT = (5, 6, 7)


def start(policy="wanspec", rtt_ms=30.0, count=1, tokens=400, **config):
    world = World(PAIR, weather=Weather(delay_ms=rtt_ms / 2), **config)
    world.run(until=2_000.0)
    for number in range(count):
        world.submit(number, Request((*PROMPT, number + 1), tokens, policy=policy))
    return world


def nodes(world, number=0):
    return world.controller.sequences[number].tally.remote_nodes


def finish(world):
    world.run()
    for number, output in world.outputs.items():
        assert output.tokens == PAIR.generate((*PROMPT, number + 1), len(output.tokens))
        assert output.finished.reason == "length"


def cut(world):
    world.cut_link()
    return world.mend_link


def crash(world):
    world.crash_worker()
    return world.restart_worker


def silence(world):
    world.weather.silent = True

    def speak():
        world.weather.silent = False

    return speak


@pytest.mark.parametrize("fault", [cut, crash, silence])
@pytest.mark.parametrize("policy", ["wanspec", "remote_sync"])
def test_drafting_resumes_for_running_and_for_new_sequences(fault, policy):
    world = start(policy)
    world.run(until=2_500.0)
    before = nodes(world)
    assert before > 0
    mend = fault(world)
    world.run(until=4_500.0)
    during = nodes(world)
    world.run(until=4_800.0)
    assert nodes(world) == during
    assert world.controller.sequences[0].generated > 40  # decoding went on without the worker
    world.submit(1, Request((*PROMPT, 2), 400, policy=policy))
    mend()
    # Silence is found out by the handshake's deadline, the others by the next attempt to connect.
    allowed = LinkConfig().handshake_ms + 2 * LinkConfig().backoff_max_ms
    world.run(until=world.now + (allowed if fault is silence else 2_500.0))
    if fault is silence:
        world.submit(2, Request((*PROMPT, 3), 400, policy=policy))
        world.run(until=world.now + 300.0)
        assert nodes(world, 2) > 0
    else:
        assert nodes(world) > during
        assert nodes(world, 1) > 0
    finish(world)


@pytest.mark.parametrize("rtt_ms", [0.0, 30.0, 100.0])
@pytest.mark.parametrize("fault", [cut, crash, silence])
def test_no_stall_is_longer_than_the_stated_deadline(fault, rtt_ms):
    world = start(rtt_ms=rtt_ms, tokens=100)
    emitted = []
    sequence = world.controller.sequences[0]
    world.at(2_400.0, lambda: fault(world))
    while world.outputs[0].finished is None:
        before = len(world.outputs[0].tokens)
        world.run(until=world.now + 0.5)
        if len(world.outputs[0].tokens) > before:
            emitted.append(world.now)
    finish(world)
    costs = world.costs
    limit = max(25.0, rtt_ms + 2 * costs.pass_ms)
    longest = max(b - a for a, b in itertools.pairwise(emitted))
    k = sequence.policy.k
    assert longest <= limit + 2 * k * costs.draft_ms + costs.target_ms + 1.0
    assert sequence.tally.wait_timeouts <= 1


def test_a_silent_worker_costs_one_wait_then_local_speed():
    """Once overdue a worker is not waited for: what follows takes as long as with ``local``."""
    world = start(rtt_ms=30.0, tokens=300)
    world.weather.silent = True
    finish(world)
    summary = world.outputs[0].finished.summary
    local = start("local", tokens=300)
    finish(local)
    assert summary["wait_timeouts"] <= 1
    slowest = local.outputs[0].finished.summary["latency_ms"] + 45.0 + 2 * world.costs.draft_ms
    assert summary["latency_ms"] <= slowest


def test_a_worker_of_another_tokenizer_is_refused_and_decoding_goes_on():
    other = WorkerConfig(type(FINGERPRINT)(b"x" * 32, 1_000, "other"))
    world = start(worker=other, tokens=60)
    finish(world)
    link = world.controller.links[0]
    assert link.refusal.startswith("tokenizer: tokenizer: the target's")
    assert world.worker.counters.refused == 1
    assert world.outputs[0].finished.summary["remote_nodes"] == 0


def test_a_full_worker_is_not_asked_again_and_decoding_goes_on():
    world = start(worker=WorkerConfig(FINGERPRINT, max_sequences=2), count=4, tokens=80)
    finish(world)
    busy = [o.finished.summary["lost"] for o in world.outputs.values()]
    assert busy == [{}, {}, {"busy": 1}, {"busy": 1}]


@pytest.mark.parametrize("policy", ["local", "remote_sync", "wanspec"])
def test_an_engine_without_drafts_still_answers(policy):
    config = ControllerConfig(FINGERPRINT, max_draft=0)
    world = start(policy, controller=config, tokens=40)
    finish(world)
    assert world.outputs[0].finished.summary["rounds"] == 40


@pytest.mark.parametrize("policy", ["local", "remote_sync", "wanspec"])
def test_a_controller_without_a_local_draft_still_answers(policy):
    config = ControllerConfig(FINGERPRINT, local_draft=False)
    world = start(policy, controller=config, tokens=40)
    finish(world)
    assert world.outputs[0].finished.summary["local_draft_passes"] == 0


def test_the_policies_in_their_known_order():
    """At 20 ms of RTT, 23.4 / 7.5 ms steps and 80% match: the paper's finding in its direction."""
    latency, passes = {}, {}
    for policy in ("target_only", "local", "remote_sync", "wanspec"):
        world = start(policy, rtt_ms=20.0, tokens=200)
        finish(world)
        summary = world.outputs[0].finished.summary
        latency[policy], passes[policy] = summary["latency_ms"], summary["local_draft_passes"]
    assert latency["wanspec"] < latency["local"] < latency["target_only"]
    assert latency["remote_sync"] > latency["local"]
    assert passes["wanspec"] < passes["local"]
    assert passes["remote_sync"] <= 4  # while nothing is known of the round trip
