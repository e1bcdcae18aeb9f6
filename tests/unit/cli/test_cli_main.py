"""The commands' surface: help, wrong command lines, errors as people and programs see them."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from wanspec.cli import main as run_main
from wanspec.cli.command import as_typed, parse_settings
from wanspec.cli.group import cli
from wanspec.network.ports import reserve_ports

COMMANDS = ("up", "generate", "control", "demo", "bench", "doctor", "calibrate", "serve-openai", "models")


@pytest.fixture
def run():
    return lambda *arguments, **more: CliRunner().invoke(cli, arguments, **more)


def exit_code(monkeypatch, *arguments):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as stopped:
        run_main(arguments)
    return stopped.value.code


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_help_has_examples(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"wanspec {command}" in result.output.partition("Examples:")[2]
    assert "--json" in result.output


def test_help_lists_commands_and_exit_codes(run):
    text = run("--help").output
    assert all(command in text for command in COMMANDS)
    assert all(code in text for code in ("130", "143", "  2  ", "  1  "))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "--pair", "small", "--target", "x"), "--pair"),
        (("up", "--target", "small-target"), "--draft"),
        (("up", "--pair", "small", "--pace-ms", "1,2"), "target,draft,worker"),
        (("up", "--pair", "small", "--decoupled"), "--compat"),
        (("up", "--pair", "none"), "none"),
        (("up", "--rtt-ms", "-1"), "rtt-ms"),
        (("up", "--pair", "small", "--set", "k"), "name=value"),
        (("up", "--pair", "small", "--policy", "magic"), "target_only"),
        (("up", "--pair", "small", "--grpc-port", "9501", "--http-port", "9501"), "--grpc-port and --http-port"),
        (("generate", "a", "--policy", "magic"), "target_only"),
        (("generate", "a", "--url", "localhost"), "HOST:PORT"),
        (("generate", "a", "--traceparent", "00-1-2-01"), "00-<32"),
        (("generate",), "PROMPT"),
        (("generate", "a", "--stdin"), "not both"),
        (("generate", "a", "--max-tokens", "0"), "max-tokens"),
        (("demo", "--max-tokens", "1"), "max-tokens"),
        (("calibrate", "--engine", "gpu"), "worker"),
        (("calibrate", "--pair", "small", "--repeats", "0"), "repeats"),
        (("nothing",), "nothing"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(run, monkeypatch, arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert exit_code(monkeypatch, *arguments) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "small-targett", "--draft", "small-draft"), "Did you mean small-target"),
        (("--target", "/nowhere/model", "--draft", "small-draft"), "/nowhere/model"),
        (("--pair", "small", "--set", "k=99"), "1 to 32"),
        (("--pair", "small", "--policy", "target_only", "--set", "k=3"), "it has none"),
        (("--pair", "small", "--jitter-ms", "99"), "--jitter-ms: 99 is above 15, half of --rtt-ms"),
        (("--pair", "small", "--context", "100000"), "--context: 100000 tokens are above the target's limit of"),
        (("--pair", "small", "--log-dir", "/proc/x"), "--log-dir: /proc/x cannot be made"),
        (("--pair", "small", "--device", "gpu"), "--device: 'gpu'"),
        (("--pair", "small", "--worker-device", "gpu"), "--worker-device: 'gpu'"),
        (("--pair", "small", "--event-log", "/nowhere/log"), "/nowhere"),
    ],
)
def test_up_refuses_before_anything_starts(run, monkeypatch, arguments, said):
    monkeypatch.setattr("wanspec.cli.up.Deployment.start", lambda *_: pytest.fail("started"))
    result = run("up", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output
    as_json = run("up", *arguments, "--json")
    assert as_json.exit_code == 1
    assert said in json.loads(as_json.stdout)["error"]


def test_up_refuses_models_of_different_tokenizers(run, tmp_path):
    from wanspec.models import resolve

    other = tmp_path / "other"
    other.mkdir()
    for file in resolve("small-draft").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    first, second = list(tokenizer["model"]["vocab"])[300:302]
    vocab = tokenizer["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = run("up", "--target", "small-target", "--draft", str(other))
    assert result.exit_code == 1
    assert "does not fit the target" in result.stderr


def test_up_names_a_port_in_use(run):
    import socket

    with reserve_ports(1) as (port,), socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen(1)
        result = run("up", "--pair", "small", "--grpc-port", str(port))
    assert result.exit_code == 1
    assert f"{port} is in use" in result.stderr


def test_generate_says_how_to_start_an_endpoint(run, monkeypatch):
    with reserve_ports(1) as (port,):
        result = run("generate", "hello", "--url", f"127.0.0.1:{port}")
        assert exit_code(monkeypatch, "generate", "hello", "--url", f"127.0.0.1:{port}") == 1
    assert result.exit_code == 1
    assert "wanspec up" in result.stderr


def test_generate_reads_standard_input_as_utf8(run):
    result = run("generate", "-", input=b"\xff\xfe")
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_is_130(monkeypatch, capsys, error):
    def interrupted(**_):
        raise error

    monkeypatch.setattr(cli.commands["doctor"], "callback", interrupted)
    assert exit_code(monkeypatch, "doctor") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_settings_are_numbers_where_they_can_be():
    assert parse_settings(("k=3", "phi=0.5", "rule=text")) == {"k": 3, "phi": 0.5, "rule": "text"}
    with pytest.raises(click.BadParameter):
        parse_settings(("k",))


def test_the_command_line_starts_without_pytorch():
    code = "import sys, wanspec.cli.group; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_name_options_as_they_are_typed():
    up = cli.commands["up"]
    assert as_typed("grpc_port: 8001 is in use", up) == "--grpc-port: 8001 is in use"
    assert as_typed("policy_parameters.k: 99 is too much", up) == "--set k: 99 is too much"
    assert as_typed("server worker: context: no", up) == "server worker: context: no"
    assert as_typed("target_only has no such parameter; it has ", up).endswith("it has none")
    assert as_typed("local has no such parameter; it has k", up).endswith("it has k")


def test_ctrl_c_during_imports_is_quiet():
    code = (
        "import builtins, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "real = builtins.__import__\n"
        "def slow(name, *rest):\n"
        "    if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest)\n"
        "from wanspec.cli import main\n"
        "builtins.__import__ = slow\n"
        "main(['--version'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
