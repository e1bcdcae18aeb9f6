"""Where each millisecond of a round went: its steps, in virtual time with known passes and delays."""

from __future__ import annotations

import pytest

from tests.simulation.sim_doubles import FINGERPRINT
from wanspec.core.config import ControllerConfig
from wanspec.core.events import Request
from wanspec.core.rounds import StepKind
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Costs, Weather, World


def played(policy, rtt_ms, tokens=40):
    world = World(
        HashedPair(),
        weather=Weather(delay_ms=rtt_ms / 2),
        controller=ControllerConfig(FINGERPRINT),
        costs=Costs(),
    )
    world.run(until=2_000.0)
    world.submit(0, Request((5, 6, 7), tokens, policy=policy))
    world.run()
    return world.outputs[0].finished


@pytest.mark.parametrize("policy", ["remote_sync", "wanspec", "adaptive", "local", "target_only"])
def test_steps_account_for_every_millisecond_of_a_round(policy):
    finished = played(policy, 30.0)
    assert len(finished.rounds) == finished.summary["rounds"]
    for each in finished.rounds:
        at = each.began_ms
        for step in each.steps:
            assert step.began_ms == pytest.approx(at)
            at = step.ended_ms
            length = step.ended_ms - step.began_ms
            assert step.engine_ms <= length + 1e-6
            assert step.network_ms + step.worker_ms <= length + 1e-6
        assert at == pytest.approx(each.ended_ms)
        assert each.steps[-1].kind is StepKind.VERIFY
    up = sum(each.bytes_up for each in finished.rounds)
    assert 0 <= up <= finished.summary["bytes_up"]


@pytest.mark.parametrize("rtt_ms", [10.0, 30.0, 100.0])
def test_network_time_holds_no_model_time(rtt_ms):
    rounds = played("remote_sync", rtt_ms).rounds
    waits = [s for each in rounds[3:] for s in each.steps if s.kind is StepKind.WAIT and s.network_ms > 0.0]
    assert len(waits) > 5
    for wait in waits:
        assert wait.network_ms <= rtt_ms * 1.02 + 1.0
        assert wait.network_ms + wait.worker_ms == pytest.approx(wait.ended_ms - wait.began_ms, abs=1.0)
    assert max(wait.network_ms for wait in waits) == pytest.approx(rtt_ms, rel=0.02, abs=1.0)


def test_what_a_policy_weighed_is_kept():
    rounds = played("adaptive", 30.0).rounds
    assert rounds[0].steps[0].scores == ()
    names = {name for each in rounds[1:] for step in each.steps for name, _ in step.scores}
    assert {"verify", "draft"} <= names
    assert all(step.scores for each in rounds[1:] for step in each.steps)
