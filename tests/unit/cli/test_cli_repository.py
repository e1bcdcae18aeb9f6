"""``wanspec render``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.triton.engine_pairs import engine_pair
from wanspec.cli.group import cli
from wanspec.engines.config import EngineConfig
from wanspec.network.tls import CLIENT_FILES, SERVER_FILES
from wanspec.triton.binaries import find_binaries
from wanspec.triton.regions import WORKER_TLS
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


def parameters(folder: Path) -> dict[str, str]:
    text = (folder / "out" / "models" / "wanspec_worker" / "config.pbtxt").read_text()
    return dict(re.findall(r'key: "(\w+)" value \{ string_value: "([^"]*)" \}', text))


def test_a_worker_drafts_with_pytorch_by_default(render, engines, tmp_path):
    result = render("tensorrt-llm", "worker", "--engines", str(engines))
    assert result.exit_code == 0, result.output
    found = parameters(tmp_path)
    assert (found["engine"], found["device"], found["dtype"]) == ("torch", "cuda", "bfloat16")
    # As long as the pair's sequences, not the model's; so many that PyTorch keeps.
    assert (found["max_seq_len"], found["kv_tokens"], found["max_leaves"]) == ("512", str(32 * 512), "64")
    config = EngineConfig.from_parameters(found)
    assert (config.max_seq_len, config.kv_tokens) == (512, 32 * 512)
    assert "The link is plaintext: --tls of the worker and --worker-tls of the controller" in result.output
    assert "mpirun" not in result.output


def test_a_worker_that_drafts_by_tensorrt_llm(render, engines, tmp_path):
    result = render("tensorrt-llm", "worker", "--engines", str(engines), "--draft-engine", "tensorrt-llm", "--json")
    assert result.exit_code == 0, result.output
    found, told = parameters(tmp_path), json.loads(result.stdout)
    assert (found["engine"], found["engine_dir"]) == ("tensorrt_llm", "/engines/draft/engine")
    assert found["max_leaves"] == "16"  # what the engine batches
    assert found["kv_tokens"] == str(((int(0.95 * 80 * 2**30) - 4 * 2**30) // 32_768) // 128 * 128)
    assert EngineConfig.from_parameters(found).logits == "post_processor"
    assert "Not run on a GPU by this project." in told["notes"]
    assert told["mode"] == "plain"


def test_a_worker_whose_chain_comes_from_a_model_beside_it(render, engines, tmp_path):
    result = render("tensorrt-llm", "worker", "--engines", str(engines), "--draft-engine", "chain", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["mode"], told["names"], told["load_order"]) == ("leader", ["draft", "wanspec_worker"], ["draft"])
    assert told["launch"]["argv"][0] == "mpirun"
    assert (parameters(tmp_path)["engine"], parameters(tmp_path)["draft_model"]) == ("triton", "draft")


def test_a_chain_without_gpus(render, tmp_path):
    result = render("cpu", "worker", "--draft", "small-draft", "--draft-engine", "chain", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["names"] == ["draft", "wanspec_worker"]
    assert 'backend: "python"' in (tmp_path / "out" / "models" / "draft" / "config.pbtxt").read_text()


def test_a_worker_needs_nothing_of_the_target(render, tmp_path):
    pair = engine_pair()
    nowhere = pair.target.model_copy(update={"model_dir": str(tmp_path / "nowhere")})
    pair.model_copy(update={"target": nowhere}).write(tmp_path)
    assert render("tensorrt-llm", "worker", "--engines", str(tmp_path)).exit_code == 0
    shutil.rmtree(tmp_path / "out")
    result = render("tensorrt-llm", "controller", "--engines", str(tmp_path))
    assert result.exit_code == 1
    assert "nowhere" in result.output


def test_a_drafts_engine_of_several_gpus_is_not_for_a_workers_process(render, tmp_path):
    pair = engine_pair()
    pair.model_copy(update={"draft": pair.draft.model_copy(update={"tensor_parallel": 2})}).write(tmp_path)
    for how, code in (("tensorrt-llm", 1), ("chain", 0)):
        result = render("tensorrt-llm", "worker", "--engines", str(tmp_path), "--draft-engine", how)
        assert result.exit_code == code, result.output
    assert "--load-model=draft" in result.output


def test_the_experiment_is_named_one(render, engines, tmp_path):
    result = render("tensorrt-llm", "controller", "--engines", str(engines), "--sampling", "logits")
    assert result.exit_code == 0, result.output
    assert "Sampling by returned logits is an experiment" in result.output
    text = (tmp_path / "out" / "models" / "wanspec" / "config.pbtxt").read_text()
    assert 'key: "sampling" value { string_value: "logits" }' in text


@pytest.mark.parametrize(
    ("region", "more", "problem"),
    [
        ("controller", ("--worker-url", "http://w:8001"), "give HOST:PORT of gRPC alone"),
        ("controller", ("--worker-url", "w"), "'w' is not HOST:PORT of gRPC"),
        ("controller", ("--worker-url", "w:80010"), "the port must be 1 to 65535"),
        ("controller", ("--worker-url", "a:1,b:2"), "is not HOST:PORT of gRPC"),
        ("worker", ("--worker-url", "w:8001"), "--worker-url goes with --region controller"),
        ("worker", ("--device", "gpu0"), "--device: 'gpu0' is not a device; use cpu, cuda or cuda:N"),
        ("worker", ("--device", "cuda:x"), "--device: 'cuda:x' is not a device"),
        ("worker", ("--draft-engine", "tensorrt-llm"), "goes with --profile tensorrt-llm"),
        ("controller", ("--draft-engine", "chain"), "--draft-engine goes with --region worker"),
        ("worker", ("--sampling", "logits"), "--sampling goes with --region controller"),
    ],
)
def test_what_cannot_be_is_refused(render, region, more, problem, tmp_path):
    result = render("cpu", region, *PAIR, *more)
    assert result.exit_code in (1, 2)
    assert problem in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("region", "more", "problem"),
    [
        ("worker", ("--device", "cpu"), "--device: the worker of --profile tensorrt-llm drafts on a GPU"),
        ("controller", ("--sampling", "coupled"), "--sampling coupled goes with --profile cpu"),
    ],
)
def test_what_cannot_be_with_engines(render, engines, region, more, problem):
    result = render("tensorrt-llm", region, "--engines", str(engines), *more)
    assert problem in " ".join(result.output.split())


def test_the_cpu_profile(render, tmp_path):
    result = render("cpu", "worker", *PAIR, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["names"] == ["wanspec_worker"]
    assert 'string_value: "cpu"' in (tmp_path / "out" / "models" / "wanspec_worker" / "config.pbtxt").read_text()


def test_mutual_tls_between_regions(render, tmp_path):
    for name in (*SERVER_FILES, *CLIENT_FILES):
        (tmp_path / name).write_text("")
    certificates = str(tmp_path)
    result = render("cpu", "controller", *PAIR, "--worker-url", "w:8001", "--worker-tls", certificates)
    assert result.exit_code == 0, result.output
    assert "plaintext" not in result.output
    text = (tmp_path / "out" / "models" / "wanspec" / "config.pbtxt").read_text()
    for name, file in zip(WORKER_TLS, ("ca.crt", "client.crt", "client.key"), strict=True):
        assert f'key: "{name}" value {{ string_value: "{tmp_path / file}" }}' in text


def test_links_are_plaintext_unless_asked_for(render, tmp_path):
    result = render("cpu", "controller", *PAIR, "--worker-url", "w:8001")
    assert "The link is plaintext" in result.output
    text = (tmp_path / "out" / "models" / "wanspec" / "config.pbtxt").read_text()
    assert 'key: "worker_tls_ca" value { string_value: "" }' in text


def test_the_cpu_profile_is_served_by_the_triton_that_is_installed(render, tmp_path):
    launch = json.loads(render("cpu", "worker", *PAIR, "--json").stdout)["launch"]
    assert launch["argv"][0] == str(find_binaries().executable)
    backends = tmp_path / "out" / "triton" / "backends"
    assert f"--backend-directory={backends}" in launch["argv"]
    assert (backends / "python").is_dir()
    assert launch["env"].keys() == {"LD_LIBRARY_PATH", "PATH", "PYTHONPATH"}


@pytest.mark.parametrize(
    ("profile", "more", "problem"),
    [
        ("tensorrt-llm", (), "--engines goes with --profile tensorrt-llm"),
        ("cpu", ("--engines", "x", *PAIR), "--engines goes with --profile tensorrt-llm"),
        ("tensorrt-llm", ("--engines", "nowhere"), "--engines: cannot read nowhere"),
        ("cpu", (*PAIR, "--tls", "nowhere"), "--tls: nowhere lacks server.crt, server.key, ca.crt"),
        ("cpu", (*PAIR, "--worker-tls", "nowhere"), "--worker-tls: nowhere lacks client.crt, client.key, ca.crt"),
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
