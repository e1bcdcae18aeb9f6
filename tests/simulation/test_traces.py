"""Traces of both regions, of runs in virtual time: one tree, what the network took, and every fault in its place."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.sim_doubles import FINGERPRINT
from tests.unit.telemetry.trace_doubles import OFFSET_NS, received
from wanspec.core.config import ControllerConfig
from wanspec.core.events import Request, Traced
from wanspec.core.worker import Worker
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Costs, Weather, World
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.export import resource_of
from wanspec.telemetry.records import RequestRecord
from wanspec.telemetry.request_spans import request_spans
from wanspec.telemetry.worker_spans import sequence_spans

CALLER = TraceContext.new()
HERE, THERE = resource_of("wanspec-controller", "c", "scarce"), resource_of("wanspec-worker", "w", "idle")


class Traces(World):
    """Keeps what workers say of traced sequences."""

    def __init__(self, delay_ms=15.0, **more):
        super().__init__(
            HashedPair(),
            weather=Weather(delay_ms=delay_ms),
            controller=ControllerConfig(FINGERPRINT),
            costs=Costs(),
            **more,
        )
        self.contexts: dict[int, TraceContext] = {}
        self.records = []
        self.run(until=2_000.0)

    def ask(self, policy, tokens=40, number=0, **parameters):
        self.contexts[number] = CALLER.child()
        traceparent = str(self.contexts[number])
        self.submit(number, Request((5, 6, 7), tokens, policy=policy, parameters=parameters, traceparent=traceparent))

    def _act_worker(self, action):
        super()._act_worker(action)
        if isinstance(action, Traced):
            self.records.append(action.record)

    def spans(self):
        """All that both regions export, once every sequence has ended."""
        self.run(until=self.now + 500.0)
        made = [span for record in self.records for span in sequence_spans(record, THERE, OFFSET_NS)]
        for number, context in self.contexts.items():
            finished = self.outputs[number].finished
            begun, ended = finished.submitted_ms, self.outputs[number].finished_ms
            record = RequestRecord(context, CALLER, None, "head", "wanspec", "t", begun, ended, OFFSET_NS, finished)
            made += request_spans(record, HERE)
        return received(made)


def named(spans, name):
    return [span for span in spans if span.name == name]


def events_of(spans):
    return Counter(name for span in spans for _, name in span.events)


@pytest.mark.parametrize("policy", ["remote_sync", "wanspec", "adaptive", "local", "target_only"])
def test_one_tree_in_which_every_millisecond_is_a_part(policy):
    world = Traces()
    world.ask(policy)
    world.run()
    spans = world.spans()
    known = {span.id for span in spans} | {f"{CALLER.span_id:016x}"}
    assert {span.trace for span in spans} == {CALLER.trace}
    assert all(span.parent in known for span in spans)
    (request,) = named(spans, "wanspec.request")
    leaves = [span for span in spans if span.id not in {each.parent for each in spans} and "worker" not in span.name]
    assert sum(span.ms for span in leaves) == pytest.approx(request.ms, abs=0.01)
    drafted_there = policy in ("remote_sync", "wanspec", "adaptive")
    assert len(named(spans, "wanspec.worker.sequence")) == drafted_there
    for sequence in named(spans, "wanspec.worker.sequence"):
        assert sequence.parent == request.id
        assert sequence.attributes["wanspec.worker.passes"] > 5
        assert sequence.attributes["wanspec.worker.ended"] == "closed"
    if policy == "adaptive":
        assert any(name.startswith("wanspec.score.") for span in spans for name in span.attributes)


@pytest.mark.parametrize("delay_ms", [5.0, 15.0, 50.0])
def test_network_time_is_the_networks_and_gpu_time_the_engines(delay_ms):
    world, costs = Traces(delay_ms), Costs()
    world.ask("remote_sync")
    world.run()
    spans = world.spans()
    waits = [span for span in named(spans, "wanspec.wait") if span.attributes["wanspec.network_ms"] > 0.0][3:]
    assert len(waits) > 5
    for wait in waits:
        network, there = wait.attributes["wanspec.network_ms"], wait.attributes["wanspec.worker_ms"]
        assert network <= 2 * delay_ms * 1.02 + 1.0
        assert network + there == pytest.approx(wait.ms, abs=1.0)
    assert max(w.attributes["wanspec.network_ms"] for w in waits) == pytest.approx(2 * delay_ms, rel=0.02, abs=1.0)
    for each in named(spans, "wanspec.round")[1:]:
        told = each.attributes
        passed = costs.verify_ms(told["wanspec.round.drafted"], told["wanspec.round.context_length"])
        assert told["wanspec.round.gpu_ms"] == pytest.approx(passed, rel=0.02, abs=1.0)
    for each in named(spans, "wanspec.worker.pass"):
        assert each.attributes["wanspec.pass.gpu_ms"] == pytest.approx(each.ms, abs=0.01)


def test_a_pass_is_in_every_sequence_it_drafts_for():
    world = Traces()
    for number in range(4):
        world.ask("wanspec", number=number)
    world.run()
    spans = world.spans()
    shared = Counter(span.attributes["wanspec.pass.number"] for span in named(spans, "wanspec.worker.pass"))
    assert max(shared.values()) == 4
    for number, count in shared.items():
        of = [s for s in named(spans, "wanspec.worker.pass") if s.attributes["wanspec.pass.number"] == number]
        assert len({span.parent for span in of}) == count
        assert len({span.begin_ns for span in of}) == 1
        (batch,) = {span.attributes["wanspec.pass.batch_leaves"] for span in of}
        assert sum(span.attributes["wanspec.pass.leaves"] for span in of) <= batch


def test_a_worker_that_is_killed_and_comes_back():
    world = Traces()
    world.ask("wanspec", tokens=120)
    world.at(world.now + 200.0, world.crash_worker)
    world.at(world.now + 400.0, world.restart_worker)
    world.run()
    spans = world.spans()
    assert events_of(spans)["link down"] == 1
    epochs = events_of(spans)["worker opens it"]
    assert epochs >= 2
    (down,) = [span for span in spans if any(name == "link down" for _, name in span.events)]
    ((at, _),) = [event for event in down.events if event[1] == "link down"]
    assert down.name == "wanspec.round"
    assert down.begin_ns <= at <= down.end_ns
    assert at - OFFSET_NS == pytest.approx(2_200.0 * 1e6, abs=1e6)
    (sequence,) = named(spans, "wanspec.worker.sequence")  # what the first worker did died with it
    assert sequence.attributes["wanspec.worker.epoch"] == epochs
    assert {each.attributes["wanspec.round.epoch"] for each in named(spans, "wanspec.round")} >= {1, epochs}


def test_a_round_trip_far_above_the_usual():
    world = Traces()
    world.ask("wanspec", tokens=200)
    for begin in (400.0, 1_000.0):
        world.at(world.now + begin, lambda: setattr(world.weather, "delay_ms", 150.0))
        world.at(world.now + begin + 150.0, lambda: setattr(world.weather, "delay_ms", 15.0))
    world.run()
    spans = world.spans()
    spiked = [span for span in named(spans, "wanspec.round") if any(n == "RTT spike" for _, n in span.events)]
    at = [(ns - OFFSET_NS) / 1e6 for span in spiked for ns, name in span.events if name == "RTT spike"]
    assert len(at) == 2, at
    assert 2_400.0 < at[0] < 2_900.0
    assert 3_000.0 < at[1] < 3_500.0
    assert max(span.attributes.get("wanspec.round.rtt_ms", 0.0) for span in named(spans, "wanspec.round")) > 150.0
    calm = Traces()
    calm.ask("wanspec", tokens=200)
    calm.run()
    assert "RTT spike" not in events_of(calm.spans())


def test_a_worker_that_is_out_of_step():
    world = Traces()
    world.ask("wanspec", tokens=80)

    def forget():
        assert isinstance(world.worker, Worker)
        (sequence,) = world.worker.sequences.values()
        sequence.hashes._values[-1] ^= 1

    world.at(world.now + 250.0, forget)
    world.run()
    spans = world.spans()
    assert events_of(spans)["worker lost it: desync"] + events_of(spans)["desync"] >= 1
    first, *_ = sorted(named(spans, "wanspec.worker.sequence"), key=lambda span: span.begin_ns)
    assert (first.failed, first.message) in ((True, "lost: desync"), (False, ""))
    assert first.attributes["wanspec.worker.ended"] in ("lost: desync", "opened again")
    assert len(named(spans, "wanspec.worker.sequence")) == 2
    (request,) = named(spans, "wanspec.request")
    assert not request.failed  # only speed has suffered
