"""The arithmetic of adaptive: calibration, the model, decisions; and whole requests under it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec.core.calibration import Calibration
from wanspec.core.config import ControllerConfig, Fingerprint, WorkerConfig
from wanspec.core.estimators import Estimators, outcome_name
from wanspec.core.events import Request
from wanspec.core.policies.adaptive import Adaptive
from wanspec.core.policies.base import Outcome
from wanspec.core.policies.lookahead import Conditions, Model, local_round, look_ahead, price_within
from wanspec.core.replay import replay
from wanspec.simulation.catalogue import source_setup
from wanspec.simulation.comparison import compare
from wanspec.simulation.experiment import measure
from wanspec.simulation.models import HashedPair
from wanspec.simulation.setup import Contender
from wanspec.simulation.weather import Weather
from wanspec.simulation.world import World

KINDS = ((0.6, 0.97), (0.4, 0.5))
FINGERPRINT = Fingerprint(b"t" * 32, 1_000, "hashed")


def conditions(**changes):
    values = {
        "verify_ms": 23.4,
        "verify_token_ms": 0.0,
        "draft_ms": 7.5,
        "pass_ms": 7.5,
        "turnaround_ms": 41.0,
        "acceptance": KINDS,
        "covered": 0.75,
        "price": 0.0,
        "most": 16,
    }
    return Conditions(**{**values, **changes})


def test_calibration_moves_towards_what_is_seen():
    calibration = Calibration()
    assert calibration.chance(-0.1054, 0) == pytest.approx(0.9, abs=1e-3)
    for index in range(400):
        calibration.observe(-0.1054, 0, index % 2 == 0)
    assert calibration.chance(-0.1054, 0) == pytest.approx(0.5, abs=0.03)
    assert calibration.chance(-0.1054, 1) == pytest.approx(0.9, abs=1e-3), "ranks are counted apart"
    assert Calibration(calibration.state()).chance(-0.1054, 0) == calibration.chance(-0.1054, 0)


def test_estimators_restore_what_became_of_drafts():
    estimators = Estimators()
    for accepted in (True, False, False):
        estimators.observe(outcome_name(True, 0, accepted), 0.1)
    estimators.observe("covered", 1.0)
    estimators.observe("pace", 1.5)
    again = Estimators(estimators.state())
    assert again.state() == estimators.state()
    assert again.credit < Estimators().credit


@given(st.floats(5, 100), st.floats(0.5, 50), st.floats(0.05, 0.98), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_single_region_round_is_never_slower_than_the_target_alone(verify, draft, chance, price):
    found = local_round(conditions(verify_ms=verify, draft_ms=draft, acceptance=((1.0, chance),), price=price))
    assert found.rate >= 1.0 / verify * (1 - 1e-9)
    assert found.rate == pytest.approx((found.tokens - price * found.passes) / found.time_ms)


@given(st.floats(10, 500), st.floats(0.2, 0.95), st.floats(0, 0.5))
@settings(max_examples=15, deadline=None)
def test_a_worker_never_lowers_the_modelled_rate(turnaround, chance, price):
    found = look_ahead(conditions(turnaround_ms=turnaround, acceptance=((1.0, chance),), price=price))
    assert found.rate >= found.local.rate * 0.98
    assert found.value(-20.0) >= found.value(0.0) >= found.value(turnaround) - 1e-9


@given(st.floats(8, 250), st.floats(0.3, 0.95), st.floats(0.0, 0.2), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_price_is_the_highest_that_costs_no_more_than_the_slack(turnaround, chance, slack, worker):
    c = conditions(turnaround_ms=turnaround, acceptance=((1.0, chance),), price=0.6, worker=worker)
    price = price_within(c, slack)
    assert 0.0 <= price <= 0.6
    assert slack_of(c, price) <= slack + 1e-9
    if price < 0.6:
        assert slack_of(c, min(0.6, price + 0.02)) > slack
    assert price_within(c, slack + 0.05) >= price


def slack_of(c, price):
    """How much longer a token takes at a price than at none, as modelled."""
    speeds = []
    for each in (0.0, price):
        if c.worker:
            model = Model(replace(c, price=0.0))
            speeds.append(model.speed(model.solve(each)[2]))
        else:
            found = local_round(replace(c, price=each))
            speeds.append(found.tokens / found.time_ms)
    return speeds[0] / speeds[1] - 1.0


def test_a_price_that_is_too_high_leaves_the_target_alone():
    assert local_round(conditions(price=5.0)).passes == 0.0
    assert local_round(conditions()).passes > 1.0


def run(seed=1, delay=15.0, match=0.8, parameters=None, policy="adaptive", requests=2, down=False):
    lines = []
    pair = HashedPair(match=match, seed=seed)
    world = World(
        pair,
        weather=Weather(delay_ms=delay, worker_down=down),
        controller=ControllerConfig(FINGERPRINT),
        worker=WorkerConfig(FINGERPRINT, max_leaves=16),
        seed=seed,
        log=lines.append,
    )
    world.run(until=world.now + 4 * delay + 50.0)
    for number in range(requests):
        world.submit(number, Request((1, 2, 3 + number), 40, policy=policy, parameters=parameters or {}, record=True))
    world.run()
    for number in range(requests):
        assert world.outputs[number].tokens == pair.generate((1, 2, 3 + number), 40)
    return world, lines


@given(st.integers(0, 99), st.floats(0, 200), st.floats(0.2, 0.95), st.integers(1, 16), st.floats(0, 1))
@settings(max_examples=12, deadline=None)
def test_output_is_the_targets_and_no_more_than_k_is_verified(seed, delay, match, k, price):
    world, lines = run(seed, delay, match, {"k": k, "price": price})
    rounds = [r for one in replay(lines).values() for r in one.rounds]
    assert rounds
    assert max(len(r.drafted) for r in rounds) <= k
    assert all(o.finished.summary["wait_timeouts"] <= o.finished.summary["waits"] for o in world.outputs.values())


def test_a_replay_decides_alike_and_so_does_another_run():
    world, lines = run()
    assert run()[1] == lines
    again = replay(lines)
    for number, output in world.outputs.items():
        assert again[number].finished.summary == output.finished.summary
        alone = replay(output.finished.log)[number]
        assert alone.finished.summary == output.finished.summary


def test_without_a_worker_it_is_local_adaptive_and_says_so():
    world, _ = run(down=True, parameters={"price": 0.0})
    other, _ = run(down=True, policy="local_adaptive")
    for number, output in world.outputs.items():
        assert output.finished.summary["regime"] == "local_adaptive"
        assert output.finished.summary["rounds"] == other.outputs[number].finished.summary["rounds"]


def test_what_a_wait_costs_beside_other_sequences_is_learned():
    """Whoever waits for drafts misses the pass that the others begin."""
    policy = Adaptive()
    for late in (False, True) * 40:
        policy._tarried = late
        policy.verified(Outcome(1, 1, None, 20.0 if late else 1.0), 0.0)
    at_once, later = policy._queued_by_kind
    assert at_once < 3.0
    assert later > 17.0
    for _ in range(200):
        policy.verified(Outcome(1, 1, None, 1.0), 0.0)
    assert policy._queued_by_kind == pytest.approx([1.0, 1.0], abs=0.5)


def test_many_sequences_gain_from_a_worker_on_one_gpu():
    """With leaves for all: as many tokens for less of the GPU, at no more time than in one region."""
    found = {}
    for policy in ("local", "adaptive"):
        setup = source_setup("iid:0.8", 1, rtt_ms=30.0, leaves=256, requests=16, tokens=40, concurrent=8)
        found[policy] = measure(setup, Contender(policy, {"k": 2} if policy == "local" else {}), range(16))
    result = compare(found["adaptive"], found["local"])
    assert result.latency_ratio.value < 0.9
    assert result.draft_passes_saved.value > 0.9


def test_an_idle_worker_stops_drafting():
    world, _ = run(requests=1)
    before = world.worker.counters.passes
    world.run(until=world.now + 2_000.0)
    assert world.worker.counters.passes - before < 40
