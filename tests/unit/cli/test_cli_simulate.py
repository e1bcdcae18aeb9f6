"""``wanspec simulate``, ``reproduce`` and ``advise`` as people and programs see them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from wanspec.cli.group import cli
from wanspec.core.costs import CostModel, flat_costs

FEW = ["--requests", "3", "--tokens", "20", "--processes", "1"]


@pytest.fixture
def call():
    return lambda *arguments: CliRunner().invoke(cli, [*arguments])


def test_simulate_prints_one_object_a_row(call, tmp_path):
    log = tmp_path / "log"
    result = call("simulate", "--policy", "wanspec,wanspec:phi=2", "--rtt", "10,40", *FEW, "--json", "--event-log", log)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert {row["rtt_ms"] for row in rows} == {10.0, 40.0}
    assert {"local", "local, best k", "wanspec", "wanspec:phi=2", "oracle"} <= {row["policy"] for row in rows}
    for row in rows:
        assert row["leaves"] == 16
        for name in ("latency_ratio", "draft_passes_saved", "scarce_gpu_ratio"):
            low, high = row[f"{name}_interval"]
            assert low <= row[name] <= high
    assert log.read_text().startswith('{"log":')


def test_simulate_is_the_same_for_the_same_seed(call):
    first, again, other = (call("simulate", *FEW, "--json", "--seed", seed).output for seed in ("4", "4", "5"))
    assert first == again
    assert first != other


def test_simulate_takes_measured_costs(call, tmp_path):
    def stored(role, ms):
        costs = flat_costs(ms)
        file = tmp_path / f"{role}.json"
        file.write_text(CostModel(costs.step, costs.prefill, {"role": role}).to_json())
        return ["--costs", str(file)]

    def latency(*arguments):
        rows = map(json.loads, call("simulate", *FEW, "--json", *arguments).output.splitlines())
        return next(row["latency_ms"] for row in rows if row["policy"] == "local")

    assert latency(*stored("target", 46.8), *stored("draft", 15.0)) == pytest.approx(2 * latency(), rel=0.01)
    twice = call("simulate", *FEW, *stored("target", 5.0), *stored("target", 5.0))
    assert "is a second one of the target" in twice.output
    assert "is of no engine" in call("simulate", *FEW, *stored("router", 5.0)).output
    assert "cannot be used as measured costs" in call("simulate", *FEW, "--costs", "/nowhere").output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--policy", "best"], "--policy: 'best' is unknown"),
        (["--policy", "wanspec:phi=-1"], "phi"),
        (["--timing", "fast"], "--timing"),
        (["--source", "iid"], "--source"),
        (["--event", "5:explode"], "--event"),
        (["--spikes", "1:2"], "--spikes"),
        (["--rtt-trace", "/nowhere"], "cannot be read"),
        (["--rtt", "a"], "not numbers"),
    ],
)
def test_simulate_says_what_is_wrong(call, arguments, problem):
    result = call("simulate", *FEW, *arguments)
    assert result.exit_code != 0
    assert problem in result.output


def test_reproduce_writes_tables_pictures_and_a_page(call, tmp_path):
    result = call("reproduce", "fig9", "--requests", "2", "--processes", "1", "--out", tmp_path / "made")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names == {"fig9.md", "fig9.json", "fig9.png", "figures.html"}
    made = json.loads((tmp_path / "made" / "fig9.json").read_text())
    assert [point["x"] for point in made["panels"][0]["curves"][0]["points"]] == [10.0, 15.0, 70.0]


@pytest.mark.parametrize(
    ("arguments", "rows", "shown"),
    [
        (["robustness", "--cells", "3"], 3, "3 cells, worst first"),
        (["robustness", "--only", "rtt=0,30", "--only", "rate=0.2", "--only", "confidence=over"], 12, "12 cells"),
        (["pareto"], 7 * (10 + 12 + 1), "beyond everywhere"),
        (["adaptive"], 5 * 6 * 7, "of the possible gain"),
    ],
)
def test_reproduce_makes_our_own_figures(call, tmp_path, arguments, rows, shown):
    name, out = arguments[0], tmp_path / "made"
    result = call("reproduce", *arguments, "--requests", "2", "--tokens", "3", "--processes", "1", "--out", out)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {f"{name}.md", f"{name}.json", f"{name}.png", "figures.html"}
    assert shown in (out / f"{name}.md").read_text()
    assert shown in (out / "figures.html").read_text()
    assert len(json.loads((out / f"{name}.json").read_text())["rows"]) == rows


def test_advise_gives_a_verdict_and_numbers(call):
    result = call("advise", "--rtt", "10", "--acceptance", "0.8", "--policy", "wanspec", "--requests", "6", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["enable"] is True
    assert found["policy"] == "wanspec"
    assert found["verdict"].startswith("Use a worker")
    assert {"capacity", "bytes_down_a_token", "latency_ratio"} <= set(found["choices"][0])
