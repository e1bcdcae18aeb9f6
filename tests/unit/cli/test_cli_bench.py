"""``wanspec bench`` as people and programs see it, without servers."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tests.unit.bench.bench_doubles import results, sample
from wanspec.cli.group import cli


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("wanspec.cli.bench_run.Deployment.start", lambda *_: pytest.fail("started"))
    return lambda *arguments: CliRunner().invoke(cli, ["bench", *map(str, arguments)])


def test_help_has_examples_and_exit_codes(run):
    text = run("--help").output
    assert "wanspec bench --profile paper-cloud --time-scale 2" in text.partition("Examples:")[2]
    assert "  1    an output differs" in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--policy", "best"), 1, "--policy: 'best' is unknown"),
        (("--policy", "wanspec:k=99"), 1, "--policy: wanspec:k=99: policy_parameters.k: 99 is outside 1 to 32"),
        (("--policy", "oracle"), 1, "--policy: oracle"),
        (("--profile", "fast"), 1, "--profile: 'fast' is neither"),
        (("--concurrency", "1,8", "--prompts", "4"), 1, "--prompts: 4 are fewer than the 8"),
        (("--concurrency", "0"), 2, "whole numbers from 1 to 64"),
        (("--concurrency", "1.5"), 2, "whole numbers from 1 to 64"),
        (("--prompts", "81"), 2, "--prompts"),
        (("--capacity", "0"), 2, "whole numbers from 1 to 64"),
        (("--capacity", "4", "--concurrency", "4"), 2, "give one"),
        (("--max-batch-size", "4"), 2, "--capacity measures: give that as well"),
        (("--capacity", "4", "--max-batch-size", "-1"), 2, "0<=x<=64"),
        (("--capacity", "8", "--prompts", "4"), 1, "--prompts: 4 are fewer than the 8"),
        (("--capacity", "4", "--url", "127.0.0.1:1"), 2, "--capacity describes a deployment to start"),
        (("--streams", "17"), 2, "--streams"),
        (("--rtt", "fast"), 2, "not numbers"),
        (("--rtt", "20000"), 1, "--rtt: 20000 is above 10000 ms"),
        (("--rtt", "30,4", "--jitter-ms", "5"), 1, "--jitter-ms: 5 is above 2"),
        (("--html", "/nowhere/page.html"), 1, "--html: the folder /nowhere does not exist"),
        (("--load", "/nowhere/file"), 1, "--load: /nowhere/file is not what --save writes"),
        (("--url", "127.0.0.1:1", "--rtt", "10"), 2, "--rtt describes a deployment to start"),
        (("--url", "127.0.0.1:1", "--profile", "paper-cloud"), 2, "--profile describes"),
        (("--url", "127.0.0.1:1"), 1, "wanspec up"),
        (("--pair", "small", "--target", "x"), 2, "--pair"),
        (("--draft", "x"), 2, "--target"),
        (("--pair", "small", "--device", "gpu"), 1, "--device: 'gpu'"),
    ],
)
def test_wrong_values_are_named_before_anything_starts(run, arguments, code, said):
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert said in result.output
    assert "Traceback" not in result.output


def test_html_without_matplotlib_is_told_first(run, monkeypatch, tmp_path):
    monkeypatch.setattr("wanspec.simulation.plots.find_spec", lambda name: None)
    result = run("--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "wanspec[plots]" in result.output


def test_saved_files_are_reported_on(run, tmp_path):
    results([sample("local"), sample("adaptive")]).save(tmp_path / "one")
    done = run("--load", tmp_path / "one", "--json", "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["policy"] for line in done.stdout.splitlines()] == ["local", "adaptive"]
    assert (tmp_path / "page.html").is_file()
    assert "Every output is the target's own" in run("--load", tmp_path / "one").output


def test_an_output_that_differs_is_exit_code_1(run, tmp_path):
    results([sample("local"), sample("adaptive", exact=False)]).save(tmp_path / "one")
    done = run("--load", tmp_path / "one", "--json")
    assert done.exit_code == 1
    assert [json.loads(line)["exact"] for line in done.stdout.splitlines()] == [True, False]
