"""What is made of samples: ratios of pairs, times without the scale, shares, warnings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.bench.bench_doubles import CONDITIONS, results, sample, usage
from wanspec.bench.results import Results, load
from wanspec.bench.rows import make_rows, unscaled
from wanspec.bench.warnings import find_warnings
from wanspec.cli.bench_report import exactness
from wanspec.errors import ConfigError


def row(*samples, policy="adaptive", usages=None, **conditions):
    made = make_rows(results([sample(prompt=n) for n in range(3)] + list(samples), usages, **conditions))
    return next(each for each in made if each.policy == policy)


def test_times_are_given_without_the_scale_and_counts_as_they_are():
    assert unscaled({"latency_ms": 30.0, "ttft_ms": None, "rounds": 4}, 2.0) == {
        "latency_ms": 15.0,
        "ttft_ms": None,
        "rounds": 4,
    }
    local = row(policy="local")
    assert local.found.latency_ms == local.speed.latency_p50_ms.value == 1000.0
    assert local.speed.ttft_ms.value == 100.0
    assert local.speed.tpot_ms.value == 100.0  # 900 ms for nine more tokens
    assert local.speed.tokens_per_s.value == 10.0
    assert local.cost.scarce_gpu_ms_a_token.value == pytest.approx(17.7)


def test_ratios_are_medians_of_pairs():
    found = row(*(sample("adaptive", n, latency_ms=ms) for n, ms in enumerate((1000.0, 1500.0, 8000.0)))).found
    assert found.latency_ratio.value == 0.75
    assert (found.latency_ratio.low, found.latency_ratio.high) == (0.5, 4.0)
    saved = row(*(sample("adaptive", n, local_draft_passes=2) for n in range(3))).found
    assert saved.draft_passes_saved.value == 0.75
    assert saved.scarce_gpu_ratio.value == 1.0


def test_quantiles():
    speed = row(*(sample("adaptive", n, latency_ms=2.0 * n) for n in range(3)), policy="adaptive").speed
    assert (speed.latency_p50_ms.value, speed.latency_p95_ms.value) == (1.0, 1.9)
    assert speed.latency_p95_ms.low <= 1.9 <= speed.latency_p95_ms.high


def test_drafts_passes_waits_and_bytes_are_of_all_requests():
    changes = {
        "positions": {"remote": [[4, 3], [2, 1]], "local": [[0, 0], [1, 1]]},
        "remote_draft_passes": 10,
        "remote_passes_used": 4,
        "causes": {"wait for drafts": 2},
        "waited_ms": 40.0,
        "bytes_up": 50,
    }
    cost = row(*(sample("adaptive", n, **changes) for n in range(3))).cost
    assert cost.acceptance == {"local": 1.0, "remote": 0.6667}
    assert cost.acceptance_by_position == {"local": [None, 1.0], "remote": [0.75, 0.5]}
    assert (cost.remote_passes, cost.remote_passes_wasted) == (30, 18)
    assert cost.waits == {"wait for drafts": 6}
    assert cost.waited_ms_a_request == 20.0
    assert cost.bytes_up_a_token == 5.0


def test_what_is_shared_is_told_by_token_and_what_is_not_known_is_none():
    cpu = {"controller server": 6.0, "controller": 10.0, "worker server": 4.0, "target": 500.0}
    many = [sample("adaptive", n) for n in range(3)]
    used = [usage(), usage("adaptive", tokens=30, cpu_ms=cpu, wan_up=90, wan_down=300)]
    cost = row(*many, usages=used).cost
    assert cost.own_cpu_ms_a_token == pytest.approx(20 / 30)
    assert cost.own_cpu_ms_a_round == pytest.approx(20 / 15)
    assert cost.cpu_ms_a_token["target"] == 16.667
    assert (cost.wan_bytes_up_a_token, cost.wan_bytes_down_a_token) == (3.0, 10.0)
    unknown = row(*many, usages=[usage(), usage("adaptive", wan_up=None, wan_down=None)]).cost
    assert unknown.wan_bytes_up_a_token is None
    assert unknown.own_cpu_ms_a_token is None


def test_one_output_that_differs_is_enough():
    assert row(sample("adaptive", 0), sample("adaptive", 1, exact=False), sample("adaptive", 2)).exact is False
    assert row(policy="local").exact is True


def test_an_answer_of_no_tokens_is_a_row_that_differs():
    wrong = row(*(sample("adaptive", n, exact=False, tokens=0, ttft_ms=None, rounds=0) for n in range(3)))
    assert wrong.exact is False
    assert wrong.cost.bytes_up_a_token == 0.0


def test_only_the_same_requests_are_paired():
    with pytest.raises(ValueError, match="different prompts"):
        row(sample("adaptive", 1), sample("adaptive", 0), sample("adaptive", 2))


def test_rows_have_the_simulators_names():
    made = row(*(sample("adaptive", n) for n in range(3))).as_dict()
    shared = {"policy", "rtt_ms", "latency_ratio", "draft_passes_saved", "scarce_gpu_ratio", "latency_ms",
              "latency_ratio_mean", "tokens_a_round", "remote_passes_a_token"}  # fmt: skip
    assert shared < set(made)
    low, high = made["latency_ratio_interval"]
    assert low <= made["latency_ratio"] <= high
    assert made["exact"] is True
    json.dumps(made)


def test_a_machine_that_is_too_slow_is_told():
    assert find_warnings(results([sample()])) == []
    slow = find_warnings(results([sample(target_ms=300.0, local_draft_ms=140.0, pass_ms=17.0)]))
    assert [warning.split(":")[0] for warning in slow] == ["target", "local draft", "worker"]
    assert "took 60.0 ms, its pace is 46.8 ms" in slow[0]
    unpaced = {"pace_ms": (0.0, 0.0, 0.0), "profile": ""}
    assert find_warnings(results([sample(target_ms=300.0)], [usage(busy=0.99)], **unpaced)) == []
    (busy,) = find_warnings(results([sample()], [usage(busy=0.99, own_busy=0.9)]))
    assert "in use 99% of the time" in busy
    (others,) = find_warnings(results([sample()], [usage(busy=0.9, own_busy=0.4)], **unpaced))
    assert "other processes had 50% of this machine's cores" in others


def test_saved_results_are_put_together(tmp_path):
    parts = [results([sample(rtt_ms=rtt)], notes=("a note",)) for rtt in (10.0, 70.0)]
    files = [tmp_path / "one", tmp_path / "two"]
    for part, file in zip(parts, files, strict=True):
        part.save(file)
    both = load(files)
    assert both.samples == parts[0].samples + parts[1].samples
    assert both.usages == parts[0].usages + parts[1].usages
    assert both.conditions == parts[0].conditions
    assert len(make_rows(both)) == 2


def test_rows_that_were_measured_twice_are_refused(tmp_path):
    results([sample()]).save(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"is in .*one too; measure policies in one run"):
        load([tmp_path / "one", tmp_path / "one"])


def test_results_that_do_not_belong_together_are_refused(tmp_path):
    results([sample()]).save(tmp_path / "one")
    results([sample()], time_scale=5.0).save(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"two: its time_scale is 5.0, not 2.0"):
        load([tmp_path / "one", tmp_path / "two"])
    (tmp_path / "three").write_text('{"sample": {"policy": 1}}\n')
    (tmp_path / "four").write_text("")
    for name in ("three", "four", "nowhere"):
        with pytest.raises(ConfigError, match="is not what --save writes"):
            load([tmp_path / name])


def test_all_is_exact_only_if_each_is():
    assert Results(CONDITIONS, (sample(), sample()), ()).exact
    assert not Results(CONDITIONS, (sample(), sample(exact=False)), ()).exact


@pytest.mark.parametrize(("tokens", "holds"), [(500, False), (1000, False), (2000, True)])
def test_near_ties_are_excused_once_in_two_thousand_tokens(tokens, holds):
    tie = replace(sample(tokens=tokens), divergences=1)
    assert results([tie]).exact
    assert results([tie, tie]).exact is holds
    assert ("too many" in exactness(results([tie, tie]), make_rows(results([tie, tie])))) is not holds
