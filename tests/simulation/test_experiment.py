"""Experiments in virtual time: the same run for the same seed, the target's own text, and limits that always hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wanspec.core.events import Expand, Request, Verify
from wanspec.core.policies import POLICIES
from wanspec.simulation.catalogue import make_source
from wanspec.simulation.comparison import compare
from wanspec.simulation.experiment import make_world, measure, run
from wanspec.simulation.gpu import Costs
from wanspec.simulation.oracle import bound
from wanspec.simulation.setup import Contender, Setup
from wanspec.simulation.weather import Spikes, Weather

SOURCES = ("reference", "iid:0.3", "iid:0.95", "markov", "coupled")


def setup(source="reference", *, sharpness=1.0, **changes):
    temperature = 1.0 if source == "coupled" else 0.0
    given = {"requests": 3, "tokens": 30, "temperature": temperature} | changes
    return Setup(make_source(source, 3, sharpness), **given)


@pytest.mark.parametrize("source", ["reference", "coupled"])
def test_the_same_seed_is_the_same_event_log(source):
    logs = []
    for seed in (1, 1, 2):
        lines = []
        measure(setup(source, seed=seed, jitter=0.3), Contender("wanspec"), range(3), lines.append)
        logs.append(lines)
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_results_do_not_depend_on_the_number_of_processes():
    contenders = [Contender("local"), Contender("wanspec")]
    planned = setup(requests=25, tokens=8)
    assert run(planned, contenders, processes=1) == run(planned, contenders, processes=2)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_step_time_makes_the_latency_of_target_only(policy):
    planned = setup(costs=Costs(target_ms=20.0))
    (one,) = measure(planned, Contender("target_only"), [0])
    assert one.latency_ms == pytest.approx(30 * 20.0)
    (other,) = measure(planned, Contender(policy), [0])
    assert other.tokens == 30
    assert other.gpu_ms == pytest.approx(other.target_ms + other.draft_ms)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rtt_ms", [0.0, 20.0, 150.0])
def test_no_policy_passes_the_oracle(source, rtt_ms):
    planned = setup(source, rtt_ms=rtt_ms)
    least = bound(planned, range(3))
    assert all(
        a.latency_ms <= b.latency_ms for a, b in zip(bound(planned, range(3), free_drafts=True), least, strict=True)
    )
    for policy in POLICIES:
        for possible, real in zip(least, measure(planned, Contender(policy), range(3)), strict=True):
            assert possible.latency_ms <= real.latency_ms + 0.01


def test_the_oracle_is_slower_the_longer_the_round_trip():
    times = [sum(m.latency_ms for m in bound(setup(rtt_ms=rtt), range(3))) for rtt in (0, 10, 50, 200, 1000)]
    assert times == sorted(times)
    assert times[0] < times[-1]


def test_a_worker_that_dies_in_every_request_costs_little_and_no_token():
    deeds = ((200.0, "crash"), (350.0, "restart"))
    planned = setup(requests=6, tokens=60, deeds=deeds, pause_ms=1_000.0)
    results = run(planned, [Contender("local"), Contender("wanspec")])
    assert all(m.tokens == 60 for m in results["wanspec"])
    assert all(m.remote_passes > 0 for m in results["wanspec"])
    assert compare(results["wanspec"], results["local"]).latency_ratio_mean.value < 1.1


def test_target_and_draft_of_many_sequences_share_one_gpu():
    alone = run(setup(requests=8), [Contender("local")])["local"]
    together = run(setup(requests=8, concurrent=4), [Contender("local")])["local"]
    assert sum(m.gpu_ms for m in together) < 0.6 * sum(m.gpu_ms for m in alone)
    assert all(t.latency_ms >= a.latency_ms - 0.01 for t, a in zip(together, alone, strict=True))


@pytest.mark.parametrize("policy", [name for name, kind in POLICIES.items() if kind.uses_worker])
def test_no_sequence_starves_on_a_worker_of_few_leaves(policy):
    planned = setup(requests=8, tokens=60, concurrent=8, leaves=8, rtt_ms=10.0)
    passes = [m.remote_passes for m in measure(planned, Contender(policy), range(8))]
    assert min(passes) > 0.3 * max(passes)


def test_a_worker_idles_when_nothing_is_worth_drafting():
    """The controller falls silent: what is worth drafting is drafted, and then no pass is run any more."""
    for policy in (name for name, kind in POLICIES.items() if kind.uses_worker):
        world = make_world(setup(costs=Costs(target_ms=3_000.0)))
        expands = []
        act = world._act_worker
        world._act_worker = lambda action, act=act: (expands.append(world.now), act(action)) if isinstance(action, Expand) else act(action)  # fmt: skip  # noqa: E501, B023
        world.run(until=1_500.0)
        world.submit(0, Request((5, 6, 7), 10, policy=policy))
        world.run(until=4_400.0)
        assert expands
        assert max(expands) < 3_500.0


class Watched:
    """A world whose every verification and tree is checked."""

    def __init__(self, planned, policy, parameters, most):
        self.world = make_world(planned)
        self.world.run(until=1_300.0)
        act = self.world._act
        self.verified = 0

        def checked(action):
            if isinstance(action, Verify):
                self.verified += 1
                assert len(action.drafts) <= most
            act(action)

        self.world._act = checked
        for number in range(planned.concurrent):
            self.world.submit(
                number, Request(planned.prompt(number), planned.tokens, policy=policy, parameters=parameters)
            )

    def finish(self):
        while self.world.unfinished:
            self.world.step()
            for sequence in self.world.controller.sequences.values():
                self.check(sequence.tree)
            for sequence in self.world.worker.sequences.values():
                self.check(sequence.tree)
                assert sequence.tree.size <= self.world.worker.config.max_nodes + 16

    def check(self, tree):
        stack, size = [tree.root], 0
        while stack:
            node = stack.pop()
            tokens = [child.token for child in node.children]
            assert len(tokens) == len(set(tokens))
            for child in node.children:
                assert child.parent is node
                assert child.position == node.position + 1
                assert child.score <= node.score + 1e-9
            size += len(node.children)
            stack += node.children
        assert size == tree.size
        assert tree.root.position == len(tree.tokens) - 1


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    source=st.sampled_from([name for name in SOURCES if name != "coupled"]),
    sharpness=st.sampled_from([0.5, 1.0, 2.0]),
    k=st.integers(1, 8),
    rtt_ms=st.floats(0, 200),
    jitter=st.floats(0, 0.5),
    leaves=st.sampled_from([1, 4, 16]),
    concurrent=st.integers(1, 3),
    spiky=st.booleans(),
)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_limits_hold_and_the_text_is_the_targets(
    policy, source, sharpness, k, rtt_ms, jitter, leaves, concurrent, spiky
):
    weather = Weather(path=Spikes(4 * rtt_ms, 300.0, 60.0)) if spiky else Weather()
    planned = setup(
        source, sharpness=sharpness, rtt_ms=rtt_ms, jitter=jitter, leaves=leaves, concurrent=concurrent, weather=weather
    )
    watched = Watched(planned, policy, {"k": k} if "k" in POLICIES[policy].limits else {}, k)
    watched.finish()
    for number, output in watched.world.outputs.items():
        tokens = list(planned.prompt(number))
        for token in output.tokens:
            assert token == planned.pair.target(tokens)
            tokens.append(token)
        assert len(output.tokens) == planned.tokens
    assert watched.verified <= concurrent * planned.tokens


def test_branches_of_a_table_source_are_drawn_alike():
    """Beside the text the draft is as sure as on it."""
    pair, choose = make_source("reference", 9), random.Random(9)
    sure = [pair.draft([choose.randrange(50_000) for _ in range(4)], 1)[0][1] > -0.1 for _ in range(4_000)]
    tokens, on = [1, 2, 3], []
    for _ in range(4_000):
        on.append(pair.draft(tokens, 1)[0][1] > -0.1)
        tokens.append(pair.target(tokens))
    assert sum(on) / 4_000 == pytest.approx(sum(sure) / 4_000, abs=0.04)
