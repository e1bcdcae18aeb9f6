"""``wanspec render``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.triton.engine_pairs import engine_pair
from wanspec.cli.group import cli
from wanspec.triton.repository import models_of

PAIR = ("--target", "small-target", "--draft", "small-draft")


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    engine_pair().write(tmp_path)
    return tmp_path


@pytest.fixture
def render(tmp_path: Path):
    def run(profile: str, region: str, *more: str) -> Result:
        output = str(tmp_path / "out")
        return CliRunner().invoke(cli, ["render", "--profile", profile, "--region", region, "--output", output, *more])

    return run


def test_a_controller_with_engines(render, engines, tmp_path):
    result = render("tensorrt-llm", "controller", "--engines", str(engines), "--worker-url", "w:8001")
    assert result.exit_code == 0, result.output
    assert models_of(tmp_path / "out" / "models") == ["draft", "target", "wanspec"]
    assert "Not run on a GPU by this project." in result.output
    assert "--shm-size=" in result.output
    script = tmp_path / "out" / "launch.sh"
    assert "TRTLLM_ORCHESTRATOR=1 \\" in script.read_text()
    assert subprocess.run(["sh", "-n", script], timeout=10).returncode == 0


def test_the_script_runs_what_is_printed(render, tmp_path):
    stand_in = tmp_path / "my tritonserver"
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stand_in.chmod(0o755)
    result = render("cpu", "controller", *PAIR, "--tritonserver", str(stand_in), "--json")
    assert result.exit_code == 0, result.output
    argv = json.loads(result.stdout)["launch"]["argv"]
    done = subprocess.run([tmp_path / "out" / "launch.sh"], capture_output=True, text=True, timeout=10)
    assert [str(stand_in), *done.stdout.splitlines()] == argv


def test_for_programs(render, engines, tmp_path):
    found = json.loads(render("tensorrt-llm", "controller", "--engines", str(engines), "--json").stdout)
    assert found["mode"] == "orchestrator"
    assert found["load_order"] == ["draft", "target"]
    assert found["models"] == str(tmp_path / "out" / "models")
    assert found["launch"]["env"]["TRTLLM_ORCHESTRATOR"] == "1"
    assert "Not run on a GPU by this project." in found["notes"]


def test_a_worker_drafts_with_pytorch_and_says_so(render, engines, tmp_path):
    result = render("tensorrt-llm", "worker", "--engines", str(engines))
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "models" / "wanspec_worker" / "config.pbtxt").read_text()
    assert 'key: "device" value { string_value: "cuda" }' in text
    assert 'key: "dtype" value { string_value: "bfloat16" }' in text
    assert "its draft engine over TensorRT-LLM is not there yet" in result.output
    assert "The link from the controller to a worker is plaintext" in result.output
    assert "mpirun" not in result.output


def test_the_cpu_profile(render, tmp_path):
    result = render("cpu", "worker", *PAIR, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["names"] == ["wanspec_worker"]
    assert 'string_value: "cpu"' in (tmp_path / "out" / "models" / "wanspec_worker" / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    ("profile", "more", "problem"),
    [
        ("tensorrt-llm", (), "--engines goes with --profile tensorrt-llm"),
        ("cpu", ("--engines", "x", *PAIR), "--engines goes with --profile tensorrt-llm"),
        ("tensorrt-llm", ("--engines", "nowhere"), "--engines: cannot read nowhere"),
        ("cpu", (*PAIR, "--tls", "nowhere"), "--tls: nowhere lacks server.crt, server.key, ca.crt"),
        ("cpu", (*PAIR, "--http-port", "8001"), "--grpc-port: gRPC, HTTP and metrics need three ports"),
        ("tensorrt-llm", ("--target-gpus", "0,x"), "'0,x' is not numbers of GPUs"),
    ],
)
def test_bad_options(render, profile, more, problem, tmp_path):
    result = render(profile, "controller", *more)
    assert result.exit_code in (1, 2)
    assert problem in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("region", "rate"), [("controller", "20"), ("worker", "0")])
def test_one_option_has_triton_and_our_models_trace(render, region, rate, tmp_path):
    url = "http://otel:4318/v1/traces"
    more = ("--trace-url", url, "--trace-rate", "20", "--trace-slow-ms", "250", "--trace-content")
    result = render("cpu", region, *PAIR, *more, "--json")
    assert result.exit_code == 0, result.output
    argv = json.loads(result.stdout)["launch"]["argv"]
    assert f"--trace-config=opentelemetry,url={url}" in argv
    assert f"--trace-config=rate={rate}" in argv
    model = "wanspec" if region == "controller" else "wanspec_worker"
    config = (tmp_path / "out" / "models" / model / "config.pbtxt").read_text()
    assert f'key: "trace_url" value {{ string_value: "{url}" }}' in config
    if region == "controller":
        assert 'key: "trace_slow_ms" value { string_value: "250.0" }' in config
        assert 'key: "trace_content" value { string_value: "true" }' in config


def test_a_trace_url_that_is_none(render):
    result = render("cpu", "controller", *PAIR, "--trace-url", "otel:4318")
    assert result.exit_code == 1
    assert "--trace-url: 'otel:4318' is not a URL" in result.output


def test_it_does_not_write_over_something(render, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("")
    result = render("cpu", "controller", *PAIR)
    assert result.exit_code == 1
    assert "is not empty; render into a new folder" in result.output
