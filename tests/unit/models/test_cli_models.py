import json

import pytest
from click.testing import CliRunner

from wanspec.cli.models import models
from wanspec.models import CATALOG


@pytest.fixture
def run(cache):
    return lambda *arguments: CliRunner().invoke(models, arguments)


def test_list_names_every_model_and_whether_it_is_ready(run):
    listed = {item["name"]: item for item in json.loads(run("list", "--json").stdout)}
    assert set(listed) == set(CATALOG)
    assert listed["small-target"]["ready"] is True
    assert listed["smollm2-draft"]["ready"] is False
    table = run("list").stdout
    assert all(name in table for name in CATALOG)


def test_pull_takes_the_name_of_a_pair(run):
    result = run("pull", "small", "--json")
    assert result.exit_code == 0
    assert list(json.loads(result.stdout)) == ["small-target", "small-draft"]


def test_verify_without_names_checks_what_is_there(run):
    result = run("verify", "--json")
    assert result.exit_code == 0
    assert set(json.loads(result.stdout)) == {"small-target", "small-draft"}


@pytest.mark.parametrize("command", ["pull", "verify"])
def test_a_wrong_name_is_one_line_with_the_nearest_name(run, command):
    result = run(command, "small-targett")
    assert result.exit_code == 1
    assert "Did you mean small-target" in result.stderr
    assert "Traceback" not in result.output
    answer = run(command, "small-targett", "--json")
    assert answer.exit_code == 1
    assert "small-target" in json.loads(answer.stdout)["error"]


@pytest.mark.parametrize("command", ["list", "pull", "verify"])
def test_help_has_examples(run, command):
    assert "Examples:" in run(command, "--help").stdout
