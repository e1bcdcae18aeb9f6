"""What is exported of requests in virtual time: exactly what their summaries say, while they run and at the end."""

from __future__ import annotations

import pytest

from tests.simulation.sim_doubles import FINGERPRINT
from tests.unit.telemetry.fake_metrics import FakeTriton
from wanspec.core.config import ControllerConfig
from wanspec.core.events import Finished, Request
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Costs, Weather, World
from wanspec.telemetry.baseline import Baseline
from wanspec.telemetry.catalogue import CONTROLLER, WORKER, Kind
from wanspec.telemetry.looks import look_at_controller, look_at_worker
from wanspec.telemetry.series import ControllerSeries, WorkerSeries

POLICIES = ("adaptive", "wanspec", "local", "remote_sync", "target_only", "local_adaptive")
SUMS = {
    "rounds": ("wanspec_rounds_total", {}),
    "output_tokens": ("wanspec_tokens_total", {}),
    "prompt_tokens": ("wanspec_prompt_tokens_total", {}),
    "accepted_remote": ("wanspec_tokens_total", {"origin": "remote"}),
    "accepted_local": ("wanspec_tokens_total", {"origin": "local"}),
    "drafted_remote": ("wanspec_drafts_verified_total", {"origin": "remote"}),
    "drafted_local": ("wanspec_drafts_verified_total", {"origin": "local"}),
    "local_draft_passes": ("wanspec_local_draft_passes_total", {}),
    "remote_draft_passes": ("wanspec_remote_draft_passes_total", {}),
    "remote_nodes": ("wanspec_remote_nodes_total", {}),
    "stale_nodes": ("wanspec_stale_nodes_total", {}),
    "tree_hits": ("wanspec_tree_hits_total", {}),
    "tree_misses": ("wanspec_tree_misses_total", {}),
    "waits": ("wanspec_waits_total", {}),
    "wait_timeouts": ("wanspec_wait_timeouts_total", {}),
    "epochs": ("wanspec_epochs_total", {}),
    "desyncs": ("wanspec_desyncs_total", {}),
}
SECONDS = {
    "target_ms": ("wanspec_engine_seconds_total", {"engine": "target"}),
    "local_draft_ms": ("wanspec_engine_seconds_total", {"engine": "draft"}),
    "waited_ms": ("wanspec_wait_seconds_total", {}),
    "latency_ms": ("wanspec_request_seconds", {}),
}


class Watched:
    """A simulated pair of regions with its metrics, looked at now and then."""

    def __init__(self, weather=None, **config):
        self.triton, self.worker_triton = FakeTriton(), FakeTriton()
        self.export, self.worker_export = ControllerSeries(self.triton), WorkerSeries(self.worker_triton)
        self.export.declare()
        self.world = World(
            HashedPair(),
            weather=weather or Weather(delay_ms=10.0),
            controller=ControllerConfig(FINGERPRINT, **config),
            costs=Costs(),
        )
        self.world.run(until=2_000.0)
        self._counted = set()

    def look(self):
        for number, output in self.world.outputs.items():
            if output.finished is not None and number not in self._counted:
                self._counted.add(number)
                self.export.ended(output.finished)
        self.export.show(look_at_controller(self.world.controller, self.export.seen))
        if self.world.worker is not None:
            self.worker_export.show(look_at_worker(self.world.worker, 1))

    def run(self, every_ms=97.0):
        while self.world.unfinished:
            self.world.run(until=self.world.now + every_ms)
            self.look()

    @property
    def summaries(self):
        return [output.finished.summary for output in self.world.outputs.values()]

    def assert_equal_to_the_summaries(self):
        for field, (name, labels) in SUMS.items():
            assert self.triton.sum(name, **labels) == sum(each[field] for each in self.summaries), field
        for field, (name, labels) in SECONDS.items():
            seconds = sum(each[field] for each in self.summaries) / 1e3
            assert self.triton.sum(name, **labels) == pytest.approx(seconds, abs=1e-5), field


def ask(watched, policies=POLICIES, tokens=60, per_policy=3):
    for number, policy in enumerate(policies * per_policy):
        watched.world.submit(number, Request((5, 6, number), tokens, policy=policy))


@pytest.mark.parametrize("every_ms", [23.0, 997.0, 60_000.0])
def test_counters_are_the_sums_of_the_summaries_however_often_one_looks(every_ms):
    watched = Watched()
    ask(watched)
    watched.run(every_ms)
    watched.assert_equal_to_the_summaries()
    for policy in POLICIES:
        assert watched.triton.sum("wanspec_requests_total", policy=policy, reason="length") == 3
    for each in watched.summaries:
        assert each["tree_hits"] + each["tree_misses"] == each["output_tokens"]
        assert each["tree_hits"] >= each["accepted_remote"] + each["accepted_local"]
    # Every ms of every request is in one part: nothing of it is left over.
    latency = sum(each["latency_ms"] for each in watched.summaries) / 1e3
    assert watched.triton.sum("wanspec_path_seconds_total") == pytest.approx(latency, rel=1e-4)


def test_a_long_answer_counts_while_it_runs():
    watched = Watched()
    ask(watched, ("adaptive",), tokens=400, per_policy=1)
    seen = []
    for _ in range(8):
        watched.world.run(until=watched.world.now + 200.0)
        watched.look()
        seen.append(watched.triton.sum("wanspec_tokens_total"))
    assert watched.world.unfinished == 1
    assert seen == sorted(set(seen))
    assert seen[0] > 0
    assert watched.triton.value("wanspec_requests_running") == 1
    assert watched.triton.sum("wanspec_target_pass_seconds") > 0
    watched.run()
    watched.assert_equal_to_the_summaries()
    assert watched.triton.value("wanspec_requests_running") == 0


def test_faults_show():
    watched = Watched()
    ask(watched, ("adaptive", "remote_sync"), tokens=300, per_policy=1)
    watched.world.run(until=watched.world.now + 500.0)
    watched.look()
    assert watched.triton.value("wanspec_link_state", link="0", state="up") == 1
    watched.world.crash_worker()
    watched.world.run(until=watched.world.now + 300.0)
    watched.look()
    assert watched.triton.value("wanspec_link_state", link="0", state="up") == 0
    assert watched.triton.value("wanspec_link_drops_total", link="0") == 1
    watched.run()
    assert watched.triton.value("wanspec_events_total", event="link down") == 2
    watched.assert_equal_to_the_summaries()


def test_a_refusal_counts():
    watched = Watched()
    watched.export.ended(Finished(-1, "refused", {}))
    watched.export.ended(Finished(7, "busy", {}, "busy"))
    watched.look()
    assert watched.triton.value("wanspec_requests_total", policy="", regime="", reason="refused") == 1
    assert watched.triton.value("wanspec_requests_total", policy="", regime="", reason="busy") == 1


def test_the_baseline_is_what_local_takes():
    """Modelled from acceptance; and for requests that policy local decodes, what it took."""
    watched = Watched()
    ask(watched, ("local",), tokens=60, per_policy=40)
    watched.run(100.0)
    for modelled, counted in (("baseline_rounds", "rounds"), ("baseline_draft_passes", "local_draft_passes")):
        model = watched.triton.value(f"wanspec_{modelled}_total", policy="local")
        assert model == pytest.approx(watched.triton.value(f"wanspec_{counted}_total", policy="local"), rel=0.02)


@pytest.mark.parametrize("policy", ["adaptive", "wanspec", "remote_sync"])
def test_the_baseline_of_other_policies_is_near_to_what_local_takes(policy):
    local, other = Watched(), Watched()
    for watched, name in ((local, "local"), (other, policy)):
        ask(watched, (name,), tokens=60, per_policy=40)
        watched.run(100.0)
    taken = local.triton.value("wanspec_local_draft_passes_total", policy="local")
    modelled = other.triton.value("wanspec_baseline_draft_passes_total", policy=policy)
    assert modelled == pytest.approx(taken, rel=0.10), (modelled, taken)


def test_the_baseline_is_exact_where_acceptance_is_all_or_nothing():
    for accepted, rounds, passes in ((100, 1 + 3, 2 * 3 + 0), (0, 1 + 9, 2 * 8)):
        baseline = Baseline(2)
        assert not baseline.known
        baseline.learn(0, 100, accepted)
        baseline.learn(1, 100, accepted)
        assert baseline.known
        if accepted:
            assert baseline.cost(10) == (rounds, passes)
        else:
            assert baseline.cost(10) == (10, 15)  # one draft where two tokens are left, none for the last
    assert baseline.cost(0) == (0, 0)
    assert baseline.cost(1) == (1, 0)
    assert baseline.cost(200).passes == pytest.approx(2 * 197 + 1)


def test_a_server_without_metrics_serves():
    class NoMetrics:
        def MetricFamily(self, **_):  # noqa: N802
            raise RuntimeError("metrics are off")

    export = ControllerSeries(NoMetrics())
    assert not export.exporting
    assert not WorkerSeries(NoMetrics()).exporting


def test_names_and_units_are_those_of_prometheus():
    names = [metric.name for metric in (*CONTROLLER, *WORKER)]
    assert len(set(names)) == len(names)
    for metric in (*CONTROLLER, *WORKER):
        assert metric.name.startswith("wanspec_")
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
        assert metric.buckets == tuple(sorted(set(metric.buckets)))
        assert metric.help.endswith(".")
        assert not {"ms", "milliseconds", "percent"} & set(metric.name.split("_"))


def test_the_worker_shows_its_passes():
    watched = Watched()
    ask(watched, ("remote_sync",), per_policy=2)
    watched.run()
    counters = watched.world.worker.counters
    value = watched.worker_triton.value
    assert value("wanspec_worker_passes_total") == counters.passes > 0
    assert value("wanspec_worker_pass_seconds_total") == pytest.approx(counters.pass_ms / 1e3)
    assert value("wanspec_worker_nodes_total") == counters.nodes > 0
