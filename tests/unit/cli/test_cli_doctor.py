"""``wanspec doctor``: each problem is named with what to do about it."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest
from click.testing import CliRunner

from wanspec.cli import checks
from wanspec.cli.checks import FAIL, OK, WARN
from wanspec.cli.doctor import doctor
from wanspec.errors import ServerError

Usage = namedtuple("Usage", "total used free")


def test_a_finding_that_is_not_ok_has_a_cure():
    for each in checks.run_checks():
        assert each.state in (OK, WARN, FAIL)
        assert bool(each.cure) is (each.state != OK), each


def test_json_has_every_check_and_exit_code_1_on_failure(monkeypatch):
    def missing():
        raise ServerError("tritonserver: not found. Install it")

    monkeypatch.setattr(checks, "find_binaries", missing)
    result = CliRunner().invoke(doctor, ["--json"])
    assert result.exit_code == 1
    found = {each["check"]: each for each in json.loads(result.stdout)}
    assert found["tritonserver"]["state"] == FAIL
    assert "Install it" in found["tritonserver"]["cure"]
    shown = CliRunner().invoke(doctor)
    assert shown.exit_code == 1
    assert "-> tritonserver: not found" in shown.stdout


@pytest.mark.parametrize(
    ("attribute", "value", "check", "state"),
    [
        ("cores", lambda: 1, checks.machine, WARN),
        ("memory_bytes", lambda: 2**30, checks.memory, WARN),
        ("memory_bytes", lambda: 0, checks.memory, OK),
        ("gpus", lambda: ["GPU X, 80 GiB"], checks.gpu, OK),
        ("is_free", lambda port: False, checks.ports, WARN),
        ("is_ready", lambda name: False, lambda: checks.models()[0], WARN),
    ],
)
def test_checks_judge_what_they_find(monkeypatch, attribute, value, check, state):
    monkeypatch.setattr(checks, attribute, value)
    assert check().state == state


def test_too_little_shared_memory_fails(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 2**20))
    assert checks.shared_memory().state == FAIL


def test_a_missing_package_fails_and_names_the_install(monkeypatch):
    monkeypatch.setattr(checks, "LOCAL", ("no-such-package",))
    needed, local = checks.packages()
    assert needed.state == OK
    assert local.state == FAIL
    assert "missing" in local.found
    assert "wanspec[local]" in local.cure


def test_a_cache_that_cannot_be_used_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("WANSPEC_CACHE", str(tmp_path / "cache"))
    assert checks.cache().state == OK
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1))
    assert checks.cache().state == WARN
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    assert checks.cache().state == FAIL


def test_the_network_is_left_alone_unless_asked_for(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise OSError("no route")

    monkeypatch.setattr(checks.socket, "create_connection", connect)
    checks.run_checks()
    assert asked == []
    assert checks.run_checks(online=True)[-1].state == WARN
    assert len(asked) == 1
