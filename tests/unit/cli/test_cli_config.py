"""``--config``: which options it gives the defaults of, and what goes before it; ``wanspec config``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from wanspec.cli.configured import parameter
from wanspec.cli.group import cli
from wanspec.config import load
from wanspec.config.schema import Config

NEVER_UP = ("endpoint", "generation", "openai")
USERS = {
    "up": {section for section in Config.model_fields if section not in NEVER_UP},
    "serve-openai": {"endpoint", "policy", "generation", "openai"},
    "generate": {"endpoint", "policy", "generation"},
    "chat": {"endpoint", "policy", "generation"},
}
FILE = """\
regions:
  pair: small
  dtype: float64
  local_draft: false
  pace_ms: {target: 100, draft: 30}
link: {rtt_ms: 70}
policy:
  name: local
  parameters: {k: 3}
generation: {max_tokens: 9}
openai: {port: 9100}
"""


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run a command that does nothing, with a configuration; return its options."""
    (tmp_path / "wanspec.yaml").write_text(FILE)

    def run(command: str, *arguments: str, config: bool = True, **environment: str) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        monkeypatch.setattr(cli.commands[command], "callback", lambda **options: seen.update(options))
        given = ["--config", str(tmp_path / "wanspec.yaml")] if config else []
        result = CliRunner().invoke(cli, [command, *given, *arguments], env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return seen

    return run


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment)


@pytest.mark.parametrize(("command", "section"), sorted((name, each) for name, used in USERS.items() for each in used))
def test_every_field_is_an_option_with_the_same_default_and_limits(command: str, section: str) -> None:
    options = {option.name: option for option in cli.commands[command].params}
    defaults = cli.commands[command].make_context(command, []).params
    kind = Config.model_fields[section].annotation
    assert kind is not None
    schema = Config.model_json_schema()["$defs"][kind.__name__]["properties"]
    for name, field in kind.model_fields.items():
        option = options[parameter(section, name)]
        if name in ("pace_ms", "parameters", "local_draft"):  # have another form there
            continue
        assert defaults[option.name] == field.default or (section == "policy" and command != "up"), name
        described = schema[name].get("anyOf", [schema[name]])[0]
        if isinstance(option.type, (click.IntRange, click.FloatRange)):
            low = described.get("minimum", described.get("exclusiveMinimum"))
            high = described.get("maximum", described.get("exclusiveMaximum"))
            assert (option.type.min, option.type.max) == (low, high), name
            assert option.type.min_open == ("exclusiveMinimum" in described), name
        if isinstance(option.type, click.Choice):
            assert list(option.type.choices) == described["enum"], name


def test_a_file_gives_defaults(taken: Callable[..., dict[str, Any]]) -> None:
    up = taken("up")
    assert (up["pair"], up["dtype"], up["no_local_draft"], up["rtt_ms"]) == ("small", "float64", True, 70.0)
    assert (str(up["pace_ms"]), up["policy"], up["settings"]) == (
        "100 (target), 30 (local draft), 0 (worker)",
        "local",
        ("k=3",),
    )
    assert (up["weights"], up["loss"]) == ("same", 0.0)
    demo = taken("demo")
    assert (demo["pair"], demo["rtt_ms"], demo["max_tokens"]) == ("small", 70.0, 9)
    generate = taken("generate", "Hello")
    assert (generate["policy"], generate["max_tokens"], generate["temperature"]) == ("local", 9, None)
    front = taken("serve-openai")
    assert (front["port"], front["policy"], front["max_tokens"]) == (9100, "local", 9)


def test_what_is_typed_goes_before_the_environment_and_that_before_the_file(
    taken: Callable[..., dict[str, Any]],
) -> None:
    up = taken("up", "--dtype", "float32", WANSPEC_LINK__RTT_MS="5", WANSPEC_REGIONS__DTYPE="float16")
    assert (up["dtype"], up["rtt_ms"]) == ("float32", 5.0)
    assert taken("up", config=False, WANSPEC_REGIONS__DTYPE="float16")["dtype"] == "float16"
    assert taken("demo", config=False)["rtt_ms"] == 30.0


def test_options_that_go_together(taken: Callable[..., dict[str, Any]]) -> None:
    assert taken("up", "--policy", "wanspec")["settings"] == ()
    assert taken("up", "--policy", "wanspec", "--set", "phi=1")["settings"] == ("phi=1",)
    assert taken("up", "--policy", "local")["settings"] == ("k=3",)
    assert taken("up", "--set", "k=4")["settings"] == ("k=3", "k=4")
    models = taken("up", "--target", "a", "--draft", "b")
    assert (models["pair"], models["target"]) == (None, "a")
    given = {"WANSPEC_REGIONS__TARGET": "a", "WANSPEC_REGIONS__DRAFT": "b"}
    models = taken("up", "--pair", "small", config=False, **given)
    assert (models["pair"], models["target"], models["draft"]) == ("small", None, None)


@pytest.mark.parametrize("command", ["up", "demo", "serve-openai"])
def test_a_wrong_configuration_is_an_error_of_the_command(command: str, tmp_path: Path) -> None:
    (tmp_path / "wanspec.yaml").write_text("link:\n  rtt_ms: -1\n")
    file = ("--config", str(tmp_path / "wanspec.yaml"))
    result = run(command, *file)
    assert result.exit_code == 1
    assert "wanspec.yaml:2:3: link.rtt_ms: Input should be greater than or equal to 0" in result.stderr
    result = run(command, "--json", WANSPEC_CONFIG=file[1])
    assert result.exit_code == 1
    assert "wanspec.yaml:2:3: link.rtt_ms" in json.loads(result.stdout)["error"]


def test_check_and_show(tmp_path: Path) -> None:
    path = tmp_path / "wanspec.yaml"
    path.write_text(FILE)
    assert run("config", "check", str(path)).stdout == "the configuration is valid\n"
    assert json.loads(run("config", "check", str(path), "--json").stdout) == {"problems": []}
    shown = run("config", "show", WANSPEC_CONFIG=str(path), WANSPEC_LINK__RTT_MS="5").stdout
    assert f"  dtype: float64  # {path}:3:3\n" in shown
    assert "  rtt_ms: 5.0  # WANSPEC_LINK__RTT_MS\n" in shown
    values = json.loads(run("config", "show", str(path), "--json").stdout)
    assert values == load(path, {}).config.model_dump(mode="json")
    path.write_text("link:\n  loss: 2\n")
    result = run("config", "check", str(path))
    assert (result.exit_code, result.stderr.count("wanspec.yaml:2:3: link.loss")) == (1, 1)
    result = run("config", "check", str(path), "--json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["line"], problem["column"], problem["field"]) == (2, 3, "link.loss")


def test_the_schema_is_printed() -> None:
    assert json.loads(run("config", "schema").stdout) == Config.model_json_schema()
    assert run("config", "schema", "--markdown").stdout.startswith("# Configuration\n")
    for command in ("show", "check", "schema"):
        assert f"wanspec config {command}" in run("config", command, "--help").stdout.partition("Examples:")[2]


def test_a_port_in_use_is_told_before_anything_is_served() -> None:
    from wanspec.openai.serve import bind

    with bind("127.0.0.1", 0) as listener:
        result = run("serve-openai", "--port", str(listener.getsockname()[1]))
    assert result.exit_code == 1
    assert "--port: cannot listen on 127.0.0.1:" in result.stderr
