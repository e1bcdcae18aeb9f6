"""Capacity of a GPU that target and local draft share: what is made of the samples, and how it is told."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.unit.bench.bench_doubles import FakeMeter, FakeSession, results, sample, usage
from wanspec.bench.figures import make_figures
from wanspec.bench.load import possible_ratio
from wanspec.bench.meter import Meter
from wanspec.bench.results import load
from wanspec.bench.rows import make_rows
from wanspec.bench.runner import Plan, Runner
from wanspec.bench.warnings import find_warnings
from wanspec.cli.bench_report import saturation, show
from wanspec.engines.shared_gpu import SharedGpu
from wanspec.prompts import Prompt
from wanspec.simulation.setup import Contender

GPU = {"target": [936.0, 20, 80], "draft": [600.0, 40, 120]}


def measured(busy=0.25, **conditions):
    """Four answers of 10 tokens in two groups of two: 2 s each by the baseline, 1 s and 2 s by the other."""
    samples = [sample("local", n, concurrency=2) for n in range(4)]
    samples += [sample("adaptive", n, concurrency=2, latency_ms=1000.0 * (1 + n % 2)) for n in range(4)]
    used = [usage("local", concurrency=2, gpu=GPU, busy=busy) for _ in range(2)]
    used += [usage("adaptive", concurrency=2, gpu=GPU | {"draft": [0.0, 0, 0]}, tokens=20, busy=busy) for _ in range(2)]
    return results(samples, used, shared_gpu=True, **conditions)


def test_rates_are_summed_over_the_answers_that_ran_together():
    local, split = make_rows(measured())
    # At time scale 2, the baseline's answers take 1 s: 10 tokens/s each.
    assert local.load.together_tokens_per_s.value == 20.0
    assert split.load.together_tokens_per_s.value == 30.0
    assert split.load.together_ratio.value == 1.5
    assert local.load.gpu_busy == pytest.approx(0.768)
    assert local.load.target_batch == 4.0
    assert local.load.gpu_ms_a_token == pytest.approx(2 * 1536 / 20 / 2)
    assert split.load.gpu_ms_a_token == pytest.approx(2 * 936 / 40 / 2)


def test_engines_that_share_nothing_have_no_such_figures():
    (row,) = make_rows(results([sample(concurrency=1)]))
    assert (row.load.gpu_busy, row.load.target_batch, row.load.gpu_ms_a_token) == (None, None, None)
    assert saturation(results([sample()]), [row]) == []


def test_saturation_is_told_against_what_is_possible():
    found = measured()
    assert possible_ratio(found.conditions) == pytest.approx((23.4 + 2 * 7.5) / 23.4)
    (line,) = saturation(found, make_rows(found))
    assert "local 20.0, adaptive 30.0 (1.50 times, 2 at once)" in line
    assert "1.64 times is possible" in line
    console = Console(file=io.StringIO(), width=80)
    show(found, make_rows(found), [], console)
    text = console.file.getvalue()
    assert "Capacity of one GPU" in text
    assert "took turns on one GPU" in " ".join(text.split())
    assert all(len(part) <= 80 for part in text.splitlines())


def test_a_core_that_is_busy_three_fifths_of_the_time_is_too_busy():
    assert find_warnings(measured(busy=0.55)) == []
    (warning,) = find_warnings(measured(busy=0.65))
    assert "in use 65% of the time: raise --time-scale" in warning


def test_steps_that_waited_for_their_turn_are_not_slow_ones():
    waited = measured()
    slow = replace(waited, samples=tuple(replace(s, summary=s.summary | {"target_ms": 900.0}) for s in waited.samples))
    assert find_warnings(slow) == []
    late = replace(waited, usages=tuple(replace(u, gpu=GPU | {"draft": [900.0, 40, 120]}) for u in waited.usages))
    (warning,) = find_warnings(late)
    assert warning.startswith("local draft: a step took 22.5 ms, its pace is 15.0 ms")


def test_a_figure_shows_tokens_by_sequences_at_once():
    samples = [sample(name, n, concurrency=many) for many in (1, 2) for name in ("local", "adaptive") for n in range(2)]
    found = results(samples, shared_gpu=True)
    (figure,) = (each for each in make_figures(found, make_rows(found), "") if each.name == "capacity")
    tokens, late = figure.panels
    assert [point.x for point in tokens.curves[0].points] == [1, 2]
    assert tokens.curves[0].points[1].y.value == 20.0
    assert late.quantity == "latency p95, ms, RTT 30 ms"


def test_what_was_saved_of_it_is_read_again(tmp_path):
    found = measured()
    found.save(tmp_path / "saved")
    assert load([tmp_path / "saved"]) == found
    lines = (tmp_path / "saved").read_text().splitlines()
    assert json.loads(lines[0])["conditions"]["shared_gpu"] is True


@pytest.mark.parametrize(("at_once", "groups"), [(1, 4), (2, 2), (8, 1)])
def test_so_many_answers_are_enough(monkeypatch, at_once, groups):
    monkeypatch.setattr("wanspec.bench.runner.SETTLE_MS", 0.0)
    prompts = tuple(Prompt("math", f"question {n}", f"{n} begins") for n in range(8))
    plan = Plan((Contender("local", {"k": 2}, "local"),), (30.0,), (at_once,), prompts, 3, time_scale=0.01, answers=4)
    told = []
    bench = Runner(FakeSession(), plan, FakeMeter(), None, tell=told.append)
    bench.run()
    assert sum(told) == plan.requests
    assert len(bench.usages) == groups


def test_the_meter_reads_the_gpu_that_engines_share(tmp_path):
    assert Meter(None).read().gpu == {}
    gpu = SharedGpu(tmp_path, "target")
    gpu.passed(2_500_000, 3)
    meter = Meter(None)
    meter._deployment = SimpleNamespace(settings=SimpleNamespace(regions=SimpleNamespace(shared_gpu=str(tmp_path))))
    assert meter.read().gpu == {"target": [2.5, 1, 3]}
    gpu.close()
