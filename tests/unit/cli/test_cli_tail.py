"""``wanspec tail``: what it makes of an endpoint's states, for a terminal, a pipe, a program; and of none."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.simulation.sim_doubles import FINGERPRINT
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.group import cli
from wanspec.cli.readings import History
from wanspec.cli.tail import _show
from wanspec.cli.tail_view import line, screen
from wanspec.core.config import ControllerConfig
from wanspec.core.events import Request
from wanspec.core.totals import SHOWN, state_of
from wanspec.errors import InvalidRequestError, UnavailableError
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Costs, Weather, World

NOON = datetime(2026, 1, 2, 12, 0, 0)


@pytest.fixture(scope="module")
def states() -> list[dict[str, Any]]:
    """An endpoint while two answers are written, at 2,200 ms, 2,400 ms and after their end."""
    config = ControllerConfig(FINGERPRINT, links=1, max_sequences=2)
    world = World(HashedPair(), weather=Weather(delay_ms=15.0), controller=config, costs=Costs())
    world.run(until=2_000.0)
    for number, policy in enumerate(("adaptive", "wanspec", "adaptive")):
        world.submit(number, Request((5, 6, 7), 40, policy=policy))
    found = []
    for time in (2_200.0, 2_400.0):
        world.run(until=time)
        found.append(deepcopy(state_of(world.controller)))
    world.run()
    return [*found, state_of(world.controller)]


def read(states: list[dict[str, Any]], window: float = 10.0) -> list[Any]:
    history = History(window)
    return [history.add(float(second), NOON, state) for second, state in enumerate(states)]


def shown(reading: Any, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(screen(reading, "host:1"))
    return out.getvalue()


def test_a_state_has_what_a_view_needs(states: list[dict[str, Any]]) -> None:
    first, _, last = states
    assert [(each["number"], each["policy"], each["waiting"]) for each in first["sequences"]] == [
        (0, "adaptive", False),
        (1, "wanspec", False),
        (2, "adaptive", True),
    ]
    assert all(each["rounds"] > 0 and each["worker"] for each in first["sequences"][:2])
    (link,) = first["link_details"]
    assert (link["state"], link["connects"], link["drops"]) == ("up", 1, 0)
    assert link["rtt_ms"] == pytest.approx(30.0, abs=0.01)
    assert first["rtt_ms"] == pytest.approx(30.0, abs=0.01)
    assert first["step_ms"]["verify"] == pytest.approx(23.4, abs=0.1)
    assert (last["sequences"], last["totals"]["tokens"]) == ([], 120)
    assert json.loads(json.dumps(first)) == first


def test_a_state_has_a_bounded_list() -> None:
    world = World(HashedPair(), controller=ControllerConfig(FINGERPRINT, links=1))
    for number in range(SHOWN + 9):
        world.submit(number, Request((5, 6, 7), 40, policy="target_only"))
    found = state_of(world.controller)
    assert (len(found["sequences"]), found["running"]) == (SHOWN, SHOWN + 9)


def test_rates_are_what_happened_between_readings(states: list[dict[str, Any]]) -> None:
    first, second, third = read(states)
    before, after = (state["totals"] for state in states[:2])
    assert first.last is None
    assert second.last.tokens == after["tokens"] - before["tokens"] > 0
    assert second.last.tokens_per_s == second.last.tokens  # in one second
    assert second.last.accepted["remote"] == pytest.approx(
        (after["accepted_remote"] - before["accepted_remote"]) / (after["drafted_remote"] - before["drafted_remote"])
    )
    assert third.total.tokens == 120
    assert third.total.saved == states[2]["totals"]["drafted_remote"]
    assert third.total.saved_ms == pytest.approx(third.total.saved * states[2]["step_ms"]["draft"])
    assert third.last.seconds == 2.0
    assert read(states, window=1.0)[2].last.seconds == 1.0


def test_an_endpoint_that_began_anew_is_no_negative_rate(states: list[dict[str, Any]]) -> None:
    history = History(10.0)
    history.add(0.0, NOON, states[2])
    assert history.add(1.0, NOON, states[0]).last is None


def test_the_screen(states: list[dict[str, Any]]) -> None:
    text = shown(read(states)[1])
    for words in ("host:1", "policy adaptive", "speculation remote", "2 of 2 running, 1 waiting", "last 1 s", "in all"):
        assert words in text
    assert "30.0 ms" in text
    assert "▁" in shown(read(states)[2]) or "█" in shown(read(states)[2])
    assert "no request now" in shown(read(states)[2])
    assert max(map(len, shown(read(states)[1], 60).splitlines())) <= 60


def test_a_refused_link_is_seen(states: list[dict[str, Any]]) -> None:
    state = deepcopy(states[0])
    state["link_details"][0] |= {"state": "down", "rtt_ms": None, "refusal": "tokenizer: differs"}
    text = shown(History(1.0).add(0.0, NOON, state))
    assert "down" in text
    assert "tokenizer: differs" in text


def test_a_line(states: list[dict[str, Any]]) -> None:
    text = line(read(states)[1])
    assert text.startswith("12:00:00 running 2, waiting 1, policy adaptive, speculation remote, links up, RTT 30.0 ms")
    assert "tokens/s" in text
    history = History(1.0)
    assert line(history.failed(NOON, "refused")) == "12:00:00 no answer: refused; asking again"
    history.add(0.0, NOON, states[0])
    gone = shown(history.failed(NOON, "refused"))
    assert "no answer; asking again: refused" in gone
    assert "adaptive" in gone  # what it did last


class Endpoint:
    """In the place of a client: each call takes the next of what is to come, an answer or an error."""

    coming: list[Any]

    def __init__(self, url: str) -> None: ...

    def parameters(self) -> dict[str, str]:
        return {}

    def control(self, changes: Mapping[str, Any], token: str) -> dict[str, Any]:
        assert not changes
        found = self.coming.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found | {"token": token}


@pytest.fixture
def tail(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(coming: list[Any], *arguments: str) -> Result:
        monkeypatch.setattr("wanspec.cli.tail.WanspecClient", Endpoint)
        Endpoint.coming = list(coming)
        return CliRunner().invoke(cli, ["tail", "--interval", "0.1", *arguments])

    return run


def test_once_is_one_object(tail: Any, states: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    answer = tail(states, "--once", "--json", "--auth-token-file", str(tmp_path / "token"))
    assert answer.exit_code == ExitCode.DONE
    (told,) = map(json.loads, answer.stdout.splitlines())
    assert (told["state"]["token"], told["last"], told["state"]["running"]) == ("secret", None, 2)
    assert told["total"]["tokens"] == states[0]["totals"]["tokens"]
    assert datetime.fromisoformat(told["time"]).tzinfo is not None


def test_a_gone_endpoint_is_asked_again(tail: Any, states: list[dict[str, Any]]) -> None:
    coming = [states[0], UnavailableError("host:1: gone"), states[1]]
    plain = tail(coming, "--count", "3").stdout.splitlines()
    assert [("no answer: host:1: gone" in each) for each in plain] == [False, True, False]
    told = [json.loads(each) for each in tail(coming, "--count", "3", "--json").stdout.splitlines()]
    assert [each.get("error") for each in told] == [None, "host:1: gone", None]
    assert told[2]["last"]["tokens"] > 0


def test_ctrl_c_is_how_it_ends(tail: Any, states: list[dict[str, Any]]) -> None:
    answer = tail([states[0], KeyboardInterrupt()])
    assert (answer.exit_code, answer.stderr, len(answer.stdout.splitlines())) == (ExitCode.DONE, "", 1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnavailableError("host:1: gone"), "host:1: gone"),
        (InvalidRequestError("control.token", "is missing"), "--auth-token-file: is missing"),
    ],
)
def test_what_cannot_be_read_once_is_an_error(tail: Any, error: Exception, said: str) -> None:
    answer = tail([error], "--once")
    assert (answer.exit_code, said in answer.stderr) == (ExitCode.FAILED, True)


def test_a_wrong_token_is_not_tried_again(tail: Any) -> None:
    answer = tail([InvalidRequestError("control.token", "is missing")])
    assert (answer.exit_code, "--auth-token-file" in answer.stderr) == (ExitCode.FAILED, True)


def test_a_terminal_is_drawn_anew(states: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, height=50, force_terminal=True, color_system=None)
    _show(iter(read(states)), console, "host:1", live=True)
    assert out.getvalue().count("\x1b[2K") > 20  # lines of earlier frames are wiped
    assert out.getvalue().rstrip().endswith(("no request now", "\x1b[?25h"))
