"""Coupled sampling under faults: the output is that of the target alone with the same seed, whoever drafted."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.simulation.sim_doubles import FINGERPRINT, Play, from_seed
from wanspec.core.config import ControllerConfig, SamplingMode
from wanspec.core.events import Request
from wanspec.core.replay import replay
from wanspec.core.sampling import Sampling
from wanspec.simulation.models import SampledPair
from wanspec.simulation.world import Weather, World

SETTINGS = (Sampling(0.7), Sampling(1.0), Sampling(1.0, 0, 0.9), Sampling(1.0, 40, 1.0), Sampling(0.7, 40, 0.9))
PAIR = SampledPair()
PROMPT = (5, 6, 7)


def sampled(seed):
    """A fault schedule whose requests sample, each with a seed of its own, from a pair that has distributions."""
    planned, choose = from_seed(seed), random.Random(seed)
    requests = tuple(
        (
            time,
            replace(
                request, end_ids=frozenset(), sampling=replace(choose.choice(SETTINGS), seed=choose.getrandbits(64))
            ),
        )
        for time, request in planned.requests
    )
    return replace(planned, pair=SampledPair(seed=seed), requests=requests)


@pytest.mark.parametrize("seed", range(500, 520))
def test_faults_change_no_token(seed):
    lines = []
    planned = sampled(seed)
    played = Play(planned, log=lines.append).run()
    again = replay(lines)
    for number, (_, request) in enumerate(planned.requests):
        output = played.world.outputs[number]
        whole = planned.pair.generate(request.prompt, len(output.tokens), request.sampling)
        assert output.tokens == whole
        assert output.finished.reason in ("length", "error", "cancelled")
        assert again[number].tokens == output.tokens
        assert again[number].finished.summary == output.finished.summary
        assert again[number].rounds == played.sequences[number].rounds


def run(policy, sampling, rtt_ms=20.0, tokens=120, mode=SamplingMode.COUPLED):
    world = World(PAIR, weather=Weather(delay_ms=rtt_ms / 2), controller=ControllerConfig(FINGERPRINT, sampling=mode))
    world.run(until=2_000.0)
    world.submit(0, Request(PROMPT, tokens, policy=policy, sampling=sampling))
    world.run()
    return world.outputs[0]


def rate(output):
    summary = output.finished.summary
    return summary["accepted_remote"] / summary["drafted_remote"]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_sampling_accepts_nearly_as_many_remote_drafts_as_greedy(sampling):
    greedy, drawn = run("remote_sync", Sampling()), run("remote_sync", replace(sampling, seed=9))
    assert rate(drawn) > 0.5 * rate(greedy)
    assert drawn.tokens != greedy.tokens
    other = run("remote_sync", replace(sampling, seed=10))
    assert other.tokens != drawn.tokens


def test_without_the_noise_the_drafts_are_those_of_a_greedy_draft():
    """What the coupling is for: greedy drafts are drawn less often by a target that samples."""
    sampling = Sampling(1.0, seed=3)
    coupled = run("remote_sync", sampling)
    greedy = run("remote_sync", sampling, mode=SamplingMode.TENSORRT_LLM)
    assert greedy.tokens == coupled.tokens  # this world's target verifies by equality in either mode
    assert rate(greedy) < 0.6 * rate(coupled)


def test_the_worker_drafts_deep_although_sampled_tokens_are_improbable():
    """A drawn token's own probability is below the floor; its chance of being drawn by the target is not."""
    output = run("wanspec", Sampling(1.0, seed=4), rtt_ms=10.0)
    assert output.finished.summary["accepted_remote"] > 30


def test_the_summary_has_the_seed():
    assert run("target_only", Sampling(1.0, seed=77), tokens=2).finished.summary["seed"] == 77
    assert run("target_only", Sampling(), tokens=2).finished.summary["seed"] is None
    assert run("target_only", Sampling(1.0, top_k=1, seed=77), tokens=2).finished.summary["seed"] is None
