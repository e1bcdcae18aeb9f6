"""``wanspec control``: what it sends and shows; and how any command ends where the endpoint is busy."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.control import state_view
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.group import cli
from wanspec.cli.limits import LIMITS
from wanspec.core.config import ControllerConfig, Fingerprint
from wanspec.core.control import Speculation
from wanspec.core.controller import Controller
from wanspec.core.events import Request, Submitted
from wanspec.core.shadow import COUNTS
from wanspec.core.totals import state_of
from wanspec.defaults import default_of
from wanspec.errors import BusyError, InvalidRequestError
from wanspec.triton.regions import RegionSettings

DOCS = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()


def state(**shadow: int) -> dict[str, Any]:
    controller = Controller(ControllerConfig(Fingerprint(b"t" * 32, 9), links=1, max_sequences=4, max_queue=2))
    for number in range(6):
        controller.handle(Submitted(number, Request((1, 2), 3)), 0.0)
    found = state_of(controller)
    found["limits"] |= {"deadline_ms": 600_000.0, "max_deadline_ms": 3_600_000.0}
    found["totals"]["shadow"] |= shadow
    return found


class Endpoint:
    """In the place of a client: keeps what it is asked, answers or refuses."""

    sent: list[tuple[Mapping[str, Any], str]]
    problem: Exception | None = None

    def __init__(self, url: str, tls: object = None) -> None:
        self.url = url

    def parameters(self) -> dict[str, str]:
        return {}

    def control(self, changes: Mapping[str, Any], token: str) -> dict[str, Any]:
        type(self).sent.append((changes, token))
        if self.problem:
            raise self.problem
        return state()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> type[Endpoint]:
    class Fresh(Endpoint):
        pass

    Fresh.sent = []
    monkeypatch.setattr("wanspec.cli.control.WanspecClient", Fresh)
    return Fresh


def shown(**shadow: int) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(state_view(state(**shadow)))
    return out.getvalue()


def test_the_state_as_a_table() -> None:
    text = shown()
    for words in ("remote", "adaptive", "down", "4 decode of 4, 2 wait of 2", " 20", "600 s unless asked for, 3,600 s"):
        assert words in text
    assert "shadow" not in text


def test_what_a_worker_would_save_is_in_it() -> None:
    text = " ".join(shown(rounds=9, tokens=40, tokens_covered=30, passes=18, passes_covered=9).split())
    assert "30 of 40 tokens (75%) and 9 of 18 local draft passes (50%) would have been covered" in text


def test_only_what_is_asked_for_is_sent(endpoint: type[Endpoint], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    token = ["--auth-token-file", str(tmp_path / "token")]
    for arguments in ([], ["--speculation", "off", *token], ["--policy", "local", "--set", "k=3"]):
        assert CliRunner().invoke(cli, ["control", *arguments], catch_exceptions=False).exit_code == 0
    assert endpoint.sent == [
        ({}, ""),
        ({"speculation": "off"}, "secret"),
        ({"policy": "local", "policy_parameters": {"k": 3}}, ""),
    ]


def test_a_configured_policy_is_not_a_change(endpoint: type[Endpoint], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    text = f"policy: {{name: local, parameters: {{k: 3}}}}\nserver: {{auth_token_file: {tmp_path / 'token'}}}\n"
    (tmp_path / "wanspec.yaml").write_text(text)
    done = CliRunner().invoke(cli, ["control", "--config", str(tmp_path / "wanspec.yaml"), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["waiting"]) == (0, 2)
    assert endpoint.sent == [({}, "secret")]


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("control.policy_parameters.k", "--set k: 99"),
        ("control.token", "--auth-token-file: 99"),
        ("control.speculation", "--speculation: 99"),
    ],
)
def test_refusals_name_the_option(endpoint: type[Endpoint], field: str, said: str) -> None:
    endpoint.problem = InvalidRequestError(field, "99 is outside 1 to 32")
    done = CliRunner().invoke(cli, ["control"])
    assert (done.exit_code, f"Error: {said} is outside" in done.stderr) == (1, True)


def documented(title: str) -> dict[str, str]:
    """The first two cells of each row of the tables of a section."""
    section = DOCS.split(f"# {title}\n", 1)[1].split("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {name.strip("`"): row[0] for cells, *row in rows for name in cells.split(", ")}


def test_the_documentation_has_every_field_and_default() -> None:
    fields = documented("The state")
    found = state()
    assert set(fields) == {*found, *found["totals"]}
    assert tuple(documented("Shadow mode")) == COUNTS
    limits = documented("Backpressure")
    written = {name: None if text == "none" else float(text) for name, text in limits.items() if name in LIMITS}
    assert written == {
        name: default_of(RegionSettings, name) for name in LIMITS if not name.startswith(("max_draft", "eng"))
    }
    assert list(documented("Live control"))[1:5] == [each.value for each in Speculation]
    assert str(int(ExitCode.BUSY)) in limits["wanspec generate` and others"]


@click.command(cls=JsonErrors)
@JSON_OPTION
def asks(as_json: bool) -> None:
    """Ask a busy endpoint."""
    raise BusyError("64 requests are under way")


def test_busy_has_an_exit_code_of_its_own() -> None:
    done = CliRunner().invoke(asks)
    assert (done.exit_code, done.stderr) == (75, "Error: busy: 64 requests are under way\n")
    done = CliRunner().invoke(asks, ["--json"])
    assert done.exit_code == 75
    assert json.loads(done.stdout) == {"error": "busy: 64 requests are under way", "code": "busy"}
    assert " 75 " in CliRunner().invoke(cli, ["--help"]).output
