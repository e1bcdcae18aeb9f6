"""``wanspec calibrate``: measures as the servers would run, and what it stores is what ``up`` finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wanspec.cli.group import cli
from wanspec.cli.up import deployment_settings
from wanspec.cli.up import up as up_command
from wanspec.core.costs import CostModel
from wanspec.engines.stored_costs import load_costs
from wanspec.triton.regions import RegionSettings, controller_repository, with_stored_costs, worker_repository

QUICK = ("calibrate", "--pair", "small", "--threads", "1", "--repeats", "1", "--max-context", "64")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANSPEC_CACHE", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*QUICK, *arguments])


def up_regions(*arguments: str) -> RegionSettings:
    with up_command.make_context("up", ["--pair", "small", "--threads", "1", *arguments]) as context:
        return deployment_settings(context.params).regions


def test_costs_are_measured_with_their_pace_and_found_by_up_with_the_same_options() -> None:
    paced = ("--pace-ms", "1,2,3", "--time-scale", "2")
    done = run("--engine", "worker", "--engine", "draft", *paced, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told) == ["worker", "draft"]
    worker = load_costs(told["worker"]["file"])
    assert CostModel.from_plain(told["worker"]) == worker
    assert worker.step.counts == (1, 2, 4, 8, 16, 32, 64)
    assert worker.step.contexts == (32, 64)
    assert worker.pass_ms(1, 1, 32) >= 6.0, "3 ms, stretched twice"
    assert load_costs(told["draft"]["file"]).step.counts == (1,)
    assert load_costs(told["draft"]["file"]).pass_ms(1, 1, 32) >= 4.0

    regions, unused = with_stored_costs(up_regions(*paced))
    assert (regions.costs, unused) == ({role: told[role]["file"] for role in ("draft", "worker")}, [])
    assert worker_repository(regions).values["wanspec_worker"]["costs_file"] == told["worker"]["file"]
    endpoint = controller_repository(regions, "").values["wanspec"]
    assert (endpoint["verify_costs_file"], endpoint["draft_costs_file"]) == ("", told["draft"]["file"])

    regions, unused = with_stored_costs(up_regions("--pace-ms", "1,2,3"))
    assert regions.costs == {}
    assert [reason.partition(" (")[2] for reason in unused] == [
        "pace_ms was 4, is 2): not used",
        "pace_ms was 6, is 3): not used",
    ]


def test_a_table_for_people() -> None:
    done = run("--engine", "target")
    assert done.exit_code == 0, done.output
    assert "target: a token and drafts after a cached prefix, ms" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in rows] == [1, 2, 4, 8, 16, 32, 1, 16, 64, 256]
    assert all(float(value) > 0.0 for row in rows for value in row[1:])
    assert "target: measuring" in done.stderr
    assert "Measured: " in done.stdout
