"""Switches thrown at random, and few places, while everything else goes wrong: exact, complete, and logged."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.simulation.sim_doubles import FINGERPRINT, Play, from_seed
from tests.simulation.test_faults import check_settled, check_tokens
from wanspec.core.config import ControllerConfig
from wanspec.core.control import Control, Speculation
from wanspec.core.events import Controlled, Request
from wanspec.core.replay import replay
from wanspec.core.totals import state_of
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Weather, World

DEFAULTS = (("adaptive", {}), ("wanspec", {"k": 3}), ("local", {}), ("target_only", {}), ("remote_sync", {}))
LIMITS = {"max_sequences": 3, "max_reserved_tokens": 120}


class Switched(Play):
    """Every other request names no policy; places are few; the switches are thrown a dozen times."""

    def __init__(self, seed, log=None):
        planned = from_seed(seed)
        requests = tuple(
            (time, replace(request, policy="", parameters={}) if number % 2 else request)
            for number, (time, request) in enumerate(planned.requests)
        )
        super().__init__(replace(planned, requests=requests), log=log, **LIMITS)
        draw = random.Random(seed)
        for _ in range(12):
            policy, parameters = draw.choice(DEFAULTS)
            control = Control(draw.choice(list(Speculation)), policy, parameters)
            self.world.at(1_000.0 + draw.uniform(0, 2_500), lambda control=control: self._switch(control))
        self.most = 0

    def _submit(self, number, request):
        self.world.submit(number, request)
        self.most = max(self.most, len(self.world.controller.sequences))

    def _switch(self, control):
        self.world.tell(Controlled(control))


@pytest.mark.parametrize("seed", range(40))
def test_switches_and_queues_change_no_token_and_leave_nothing(seed):
    played = Switched(seed).run()
    check_tokens(played)
    check_settled(played)
    controller = played.world.controller
    assert played.most <= LIMITS["max_sequences"]
    assert (controller.admission.running, controller.admission.reserved, controller.admission.waiting) == (0, 0, {})
    assert not controller.sequences
    assert sum(state_of(controller)["totals"]["ended"].values()) == len(played.world.outputs)


@pytest.mark.parametrize("seed", range(60, 72))
def test_logs_replay_over_switches_and_queues(seed):
    lines = []
    played = Switched(seed, log=lines.append).run()
    again = replay(lines)
    for number, output in played.world.outputs.items():
        for log in (again, replay(output.finished.log)) if output.finished.log else (again,):
            assert log[number].tokens == output.tokens
            assert log[number].finished.summary == output.finished.summary


@pytest.mark.parametrize(("match", "least", "most"), [(0.95, 0.6, 1.0), (0.0, 0.0, 0.1)])
def test_shadow_tells_a_good_worker_from_a_bad_one(match, least, most):
    """What it says is covered is near what a worker saves once its drafts are used."""
    found = {}
    for speculation in (Speculation.SHADOW, Speculation.REMOTE):
        world = World(
            HashedPair(match=match, seed=3), weather=Weather(delay_ms=5.0), controller=ControllerConfig(FINGERPRINT)
        )
        world.run(until=1_200.0)
        world.tell(Controlled(Control(speculation)))
        world.submit(1, Request((5, 6, 7), 200, policy="wanspec"))
        world.run()
        found[speculation] = world.outputs[1].finished.summary
    shadow, real = found[Speculation.SHADOW], found[Speculation.REMOTE]
    counts = shadow["shadow"]
    assert shadow["accepted_remote"] == shadow["drafted_remote"] == 0
    assert counts["tokens"] == 200
    assert counts["passes"] == shadow["local_draft_passes"] > 100
    share = counts["passes_covered"] / counts["passes"]
    assert least <= share <= most
    saved = 1.0 - real["local_draft_passes"] / shadow["local_draft_passes"]
    assert saved == pytest.approx(share, abs=0.3)
