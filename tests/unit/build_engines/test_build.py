"""Whole builds with stand-ins for the tools: what is called, what is skipped, what is left after a failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from build_engines import machine
from build_engines.command import build_engines
from wanspec.triton.engine_pair import EnginePair

STEPS = ("target.checkpoint", "target.engine", "draft.checkpoint", "draft.engine")


@pytest.fixture
def build(tools, recipe_file, tmp_path):
    def run(*more: str) -> Result:
        return CliRunner().invoke(build_engines, [str(recipe_file), *tools.options(tmp_path / "out"), *more])

    return run


def planned(result: Result) -> list[list[str]]:
    """Argument lists of a plan, as the stand-ins note them."""
    found = []
    for step in json.loads(result.output)["steps"]:
        program, *rest = step["argv"]
        names = [Path(rest[0]).name, *rest[1:]] if rest[0].endswith(".py") else [Path(program).name, *rest]
        found.append(names)
    return found


def test_a_plan_runs_nothing(build, tools, tmp_path):
    result = build("--plan")
    assert result.exit_code == 0, result.output
    assert tools.calls() == []
    assert not (tmp_path / "out").exists()
    for line in ("# 1. target.checkpoint: quantise to fp8", "trtllm-build --checkpoint_dir=", "Not run on a GPU"):
        assert line in result.output


def test_the_tools_are_called_as_planned(build, tools, tmp_path):
    wanted = planned(build("--plan", "--json"))
    result = build()
    assert result.exit_code == 0, result.output
    assert tools.calls() == wanted
    assert [call[0] for call in wanted] == ["quantize.py", "trtllm-build", "convert_checkpoint.py", "trtllm-build"]
    for step in STEPS:
        assert "working on" in (tmp_path / "out" / "logs" / f"{step}.log").read_text()
    pair = EnginePair.read(tmp_path / "out")
    assert (pair.tensorrt_llm, pair.target.max_draft_len, pair.draft.max_draft_len) == ("1.2.1", 4, 0)
    assert Path(pair.target.engine_dir, "rank0.engine").is_file()


def test_the_folder_may_be_moved(build, tmp_path):
    assert build().exit_code == 0
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    pair = EnginePair.read(tmp_path / "elsewhere")
    assert Path(pair.target.engine_dir) == tmp_path / "elsewhere" / "target" / "engine"
    assert pair.target.model_dir == str(tmp_path / "hf" / "target")


def test_what_has_not_changed_is_not_done_again(build, tools, tmp_path):
    assert build().exit_code == 0
    tools.calls()
    result = build()
    assert result.exit_code == 0
    assert tools.calls() == []
    assert result.output.count("unchanged") == len(STEPS)
    build("--again")
    assert len(tools.calls()) == len(STEPS)


@pytest.mark.parametrize(
    ("change", "done"),
    [
        ("model", [0, 1]),
        ("context", [1, 3]),
        ("draft_batch", [3]),
        ("engine", [3]),
        ("version", [0, 1, 2, 3]),
        ("manifest", [0, 1, 2, 3]),
    ],
)
def test_a_change_repeats_what_depends_on_it(build, tools, tmp_path, recipe_file, pair, change, done):
    assert build().exit_code == 0
    tools.calls()
    if change == "model":
        (pair[0] / "model.safetensors").write_bytes(b"other")
        # The stand-in for quantisation writes the same whatever it reads; a real one does not.
        tool = tools.bin / "python-trtllm"
        tool.write_text(tool.read_text().replace('echo "$name" >', 'echo "$name, changed" >'))
    elif change == "context":
        recipe_file.write_text(recipe_file.read_text().replace("context: 512", "context: 256"))
    elif change == "draft_batch":
        text = recipe_file.read_text()
        recipe_file.write_text(text.replace("  max_batch_size: 2\n  tokens", "  max_batch_size: 3\n  tokens"))
    elif change == "engine":
        (tmp_path / "out" / "draft" / "engine" / "rank0.engine").write_text("cut")
    elif change == "version":
        tools.steer("VERSION", "1.2.0")
    else:
        (tmp_path / "out" / "manifest.json").write_text("{")
    result = build()
    assert result.exit_code == 0, result.output
    outputs = [next(word for word in call if word.startswith("--output_dir=")) for call in tools.calls()]
    assert [".".join(Path(each).parts[-2:]) for each in outputs] == [STEPS[number] for number in done]


def test_a_failure_names_the_log_and_the_next_run_goes_on_there(build, tools, tmp_path):
    tools.steer("FAILS", "draft.checkpoint")
    result = build()
    assert result.exit_code == 1
    log = tmp_path / "out" / "logs" / "draft.checkpoint.log"
    assert "[3/4] draft: convert failed (exit status 3): working on draft.checkpoint / no kernel found" in result.output
    assert f"The whole output is in {log}" in result.output
    assert not (tmp_path / "out" / "engines.json").exists()
    assert len(tools.calls()) == 3
    tools.steer("FAILS", "")
    assert build().exit_code == 0
    assert [call[0] for call in tools.calls()] == ["convert_checkpoint.py", "trtllm-build"]
    assert not (tmp_path / "out" / "draft" / "checkpoint" / "half").exists()


def test_errors_are_json_for_programs(build, tools):
    tools.steer("FAILS", "target.engine")
    result = build("--json")
    assert result.exit_code == 1
    assert "no kernel found" in json.loads(result.stdout)["error"]


def test_a_tool_that_makes_nothing_has_failed(build, tools):
    tools.steer("IDLE", "target.engine")
    result = build()
    assert result.exit_code == 1
    assert "[2/4] target: build ended well, but made nothing in " in result.output


def test_a_step_that_takes_too_long_is_ended(build, tools):
    tools.steer("HANGS", "target.checkpoint")
    result = build("--step-timeout-h", str(0.5 / 3600))
    assert result.exit_code == 1
    assert "[1/4] target: quantise to fp8 took too long" in result.output
    assert not alive(tools.child)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_all_and_the_next_run_goes_on(tools, recipe_file, tmp_path, build, number):
    tools.steer("HANGS", "target.engine")
    command = [sys.executable, "-m", "build_engines", str(recipe_file), *tools.options(tmp_path / "out")]
    # A shell's background jobs, which these tests may be, ignore SIGINT, and so does what they start.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 30
    while not Path(f"{os.environ['FAKE_CALLS']}.child").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number, output
    assert not alive(tools.child)
    assert not (tmp_path / "out" / "engines.json").exists()
    tools.calls()
    tools.steer("HANGS", "")
    assert build().exit_code == 0
    assert [call[0] for call in tools.calls()] == ["trtllm-build", "convert_checkpoint.py", "trtllm-build"]


def test_two_builds_in_one_folder_are_refused(build, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = build()
    assert result.exit_code == 1
    assert "--output: another build is at work in" in result.output


def test_one_engine_alone(build, tools):
    assert build("--only", "draft").exit_code == 0
    assert [call[0] for call in tools.calls()] == ["convert_checkpoint.py", "trtllm-build"]


def test_a_draft_that_is_not_local_is_built_when_asked_for_only(build, tools, recipe_file):
    recipe_file.write_text(recipe_file.read_text().replace("max_draft_len: 4", "max_draft_len: 4\nlocal_draft: false"))
    plan = build("--plan")
    assert "draft.engine" not in plan.output
    assert "no engine of the draft is built. A worker that drafts by TensorRT-LLM needs one: --only draft" in " ".join(
        plan.output.split()
    )
    assert build().exit_code == 0
    assert [call[0] for call in tools.calls()] == ["quantize.py", "trtllm-build"]
    assert build("--only", "draft").exit_code == 0
    assert [call[0] for call in tools.calls()] == ["convert_checkpoint.py", "trtllm-build"]


def test_a_draft_alone_needs_neither_the_target_nor_its_gpus(build, tools, recipe_file, pair, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: pytest.fail("nothing to fetch"))
    (tools.bin / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 9.0'\n")
    result = build("--only", "target")
    assert result.exit_code == 1
    assert "gpu.count: 2 are needed, nvidia-smi lists 1" in result.output
    shape = json.loads((pair[0] / "config.json").read_text())
    shape = {name: value for name, value in shape.items() if name not in ("model_type", "eos_token_id")}
    text = recipe_file.read_text().replace(str(pair[0]), "org/target")
    recipe_file.write_text(text.replace("target:\n", f"target:\n  shape: {json.dumps(shape)}\n"))
    plan = build("--only", "draft", "--plan")
    assert plan.exit_code == 1
    assert "draft.shape: is needed for an estimate before the model is fetched" in plan.output
    given = {**shape, "hidden_size": 32}
    recipe_file.write_text(recipe_file.read_text().replace("draft:\n", f"draft:\n  shape: {json.dumps(given)}\n"))
    plan = build("--only", "draft", "--plan")
    assert plan.exit_code == 0, plan.output
    assert "fetch org/target" not in plan.output
    result = build("--only", "draft")
    assert result.exit_code == 0, result.output
    assert "the target is not here: whether the draft fits it was not checked" in " ".join(result.output.split())
    assert [call[0] for call in tools.calls()] == ["convert_checkpoint.py", "trtllm-build"]
    assert EnginePair.read(tmp_path / "out").draft.tensor_parallel == 1


def test_the_pair_is_checked_first(build, tools, pair):
    text = (pair[1] / "tokenizer.json").read_text()
    (pair[1] / "tokenizer.json").write_text(text.replace('"b"', '"z"'))
    result = build()
    assert result.exit_code == 1
    assert "token id 1 is 'b' and 'z'" in result.output
    assert tools.calls() == []


def test_models_of_the_hub_are_fetched_once(build, tools, recipe_file, pair, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, *, allow_patterns, local_dir):
        asked.append((name, local_dir))
        assert "*.safetensors" in allow_patterns
        shutil.copytree(pair[0], local_dir)
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    recipe_file.write_text(recipe_file.read_text().replace(str(pair[0]), "org/target"))
    plan = build("--plan")
    assert plan.exit_code == 1
    assert "target.shape: is needed" in plan.output
    shape = json.loads((pair[0] / "config.json").read_text())
    shape = {name: value for name, value in shape.items() if name not in ("model_type", "eos_token_id")}
    for role in ("target", "draft"):
        given = {**shape, "hidden_size": 32 if role == "draft" else 64}
        text = recipe_file.read_text()
        recipe_file.write_text(text.replace(f"{role}:\n", f"{role}:\n  shape: {json.dumps(given)}\n"))
    plan = build("--plan")
    assert "fetch org/target" in plan.output
    assert "the pair is checked once both models are here" in plan.output
    assert build().exit_code == 0
    assert asked == [("org/target", tmp_path / "out" / "target" / "model")]
    tools.calls()
    assert build().exit_code == 0
    assert (len(asked), tools.calls()) == (1, [])


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "GPU",
            "NVIDIA A100-SXM4-80GB, 81920, 8.0",
            "H100-80GB is compute capability 9.0, this machine has NVIDIA A100",
        ),
        ("GPU", "NVIDIA GH200, 40000, 9.0", "H100-80GB has 79.6 GiB, NVIDIA GH200 here 39.1"),
        ("GPU", "no devices", "nvidia-smi answered 'no devices"),
        ("VERSION", "1.3.0", "1.3.0 is installed, the flags here are those of 1.2"),
        ("VERSION", "", ""),
    ],
)
def test_another_machine_is_refused(build, tools, name, value, problem):
    tools.steer(name, value)
    result = build()
    assert result.exit_code == (1 if problem else 0)
    assert problem in result.output
    assert bool(tools.calls()) is not bool(problem)


def test_too_few_gpus(build, tools):
    (tools.bin / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 9.0'\n")
    assert "gpu.count: 2 are needed, nvidia-smi lists 1" in build().output


@pytest.mark.parametrize(
    ("missing", "problem"), [("trtllm-build", "trtllm-build is not there"), ("script", "quantize.py")]
)
def test_missing_tools(build, tools, missing, problem, monkeypatch):
    if missing == "script":
        (tools.examples / "quantization" / "quantize.py").unlink()
    else:
        (tools.bin / missing).unlink()
    result = build()
    assert result.exit_code == 1
    assert problem in result.output
    assert tools.calls() == []


def test_a_full_disk(build, tools, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage())
    result = build()
    assert result.exit_code == 1
    assert "GB free, the steps ahead take about" in result.output
    assert tools.calls() == []


class Usage:
    """A disk with a byte left."""

    free = 1


def test_a_folder_that_cannot_be_made(recipe_file, tools, tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(build_engines, [str(recipe_file), *tools.options(tmp_path / "file" / "out")])
    assert result.exit_code == 1
    assert "--output: cannot make" in result.output


def test_recipes_are_listed():
    result = CliRunner().invoke(build_engines, ["--list", "--json"])
    assert "qwen2.5-7b-0.5b" in json.loads(result.output)
    assert CliRunner().invoke(build_engines, []).exit_code == 2


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
