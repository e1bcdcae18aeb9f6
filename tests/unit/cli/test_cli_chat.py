"""``wanspec chat`` without servers: the conversation that is sent, commands, pipes, what is shown."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from wanspec.cli.answers import stream
from wanspec.cli.conversation import COMMANDS, Conversation
from wanspec.cli.group import cli
from wanspec.cli.render import Painter, legend_for
from wanspec.core.tree import Origin
from wanspec.errors import ConfigError, InvalidRequestError, ServerError
from wanspec.triton.client import Answer, Piece

SUMMARY = {
    "policy": "adaptive",
    "output_tokens": 3,
    "latency_ms": 150.0,
    "ttft_ms": 42.0,
    "rtt_ms": 31.0,
    "rounds": 2,
    "drafted_remote": 4,
    "accepted_remote": 1,
    "drafted_local": 1,
    "accepted_local": 0,
    "local_draft_passes": 1,
}
PIECES = (
    Piece("The", (5,), (Origin.TARGET,)),
    Piece(" river", (6,), (Origin.REMOTE,)),
    Piece(" runs", (7,), (Origin.LOCAL,)),
)


class Pending:
    """An answer that is there at once."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.answer = Answer()
        self._refusal = refusal

    def __iter__(self) -> Iterator[Piece]:
        if self._refusal is not None:
            raise self._refusal
        for piece in PIECES:
            self.answer.text += piece.text
            self.answer.tokens += piece.tokens
            self.answer.origins += piece.origins
            yield piece
        self.answer.finish_reason, self.answer.summary = "stop", SUMMARY


class Client:
    """Keeps what it is asked; refuses the message `refuse`."""

    def __init__(self, *, template: bool = True) -> None:
        self.asked: list[tuple[Any, dict[str, Any]]] = []
        self._template = template

    def parameters(self) -> dict[str, str]:
        return {"chat_template": "yes" if self._template else "no", "policy": "adaptive", "target_dir": "/models/river"}

    def ask(self, prompt: Any, **inputs: Any) -> Pending:
        self.asked.append((prompt, inputs))
        refused = "refuse" in str(prompt)
        return Pending(InvalidRequestError("max_tokens", "9 leaves no room") if refused else None)


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Result, Client]]:
    def talk(said: str | bytes, *arguments: str, template: bool = True, **environment: str) -> tuple[Result, Client]:
        client = Client(template=template)
        monkeypatch.setattr("wanspec.cli.chat.WanspecClient", lambda url, tls: client)
        return CliRunner().invoke(cli, ["chat", *arguments], input=said, env=environment), client

    return talk


Talk = Callable[..., tuple[Result, Client]]


def test_later_messages_bring_the_conversation(talk: Talk) -> None:
    result, client = talk("Hello\n\nAnd then?\n", "--system", "Be brief.", "--temperature", "0.5")
    assert result.exit_code == 0, result.output
    assert result.stdout == "The river runs\nThe river runs\n", "for a pipe, standard output is the answers alone"
    told = {"role": "system", "content": "Be brief."}
    first = [told, {"role": "user", "content": "Hello"}]
    assert client.asked[0][0] == first
    later = [{"role": "assistant", "content": "The river runs"}, {"role": "user", "content": "And then?"}]
    assert client.asked[1][0] == [*first, *later]
    assert client.asked[1][1]["temperature"] == 0.5


def test_without_a_template_the_text_goes_on(talk: Talk) -> None:
    result, client = talk("It was\nand\n", template=False)
    assert result.exit_code == 0, result.output
    assert [prompt for prompt, _ in client.asked] == ["It was", "It was\nThe river runs\nand"]
    result, _ = talk("x\n", "--system", "Be brief.", template=False)
    assert result.exit_code == 1
    assert "--system: this model has no chat template" in result.stderr


def test_commands_change_what_follows(talk: Talk) -> None:
    said = "Hello\n/policy local k=3\n/system Be kind.\nAgain\n/reset\nNew\n/policy\nLast\n/exit\nnever\n"
    result, client = talk(said, "--policy", "wanspec")
    assert result.exit_code == 0, result.output
    policies = [(inputs["policy"], inputs["policy_parameters"]) for _, inputs in client.asked]
    assert policies == [("wanspec", {}), ("local", {"k": 3}), ("local", {"k": 3}), (None, {})]
    assert [len(prompt) for prompt, _ in client.asked] == [1, 4, 2, 4]
    assert client.asked[2][0][0] == {"role": "system", "content": "Be kind."}


def test_every_command_is_in_help_and_known(talk: Talk) -> None:
    result, client = talk("/help\n")
    assert result.exit_code == 0
    assert client.asked == []
    words = " ".join(result.stderr.split())
    for usage, meaning in COMMANDS.items():
        assert f"{usage}: {meaning}" in words
    own = [usage.split()[0] for usage in COMMANDS if usage not in ("/help", "/exit")]
    for name in own:
        assert Conversation(True, {}).command(name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/polici local", "/policy, /system"),
        ("/policy magic", "target_only"),
        ("/policy local k", "NAME=VALUE"),
        ("/policy local k=99", "1 to 32"),
        ("/policy target_only k=3", "target_only"),
    ],
)
def test_wrong_commands_are_refused_and_change_nothing(line: str, said: str) -> None:
    conversation = Conversation(True, {"policy": "wanspec"})
    with pytest.raises(ConfigError, match=re.escape(said)):
        conversation.command(line)
    assert conversation.inputs == {"policy": "wanspec"}


def test_json_is_an_object_an_answer(talk: Talk) -> None:
    result, _ = talk("Hello\n/policy local\nrefuse\nAgain\n", "--json")
    assert result.exit_code == 1, "one message had no answer"
    first, refused, last = map(json.loads, result.stdout.splitlines())
    assert (first["turn"], first["message"], first["text"]) == (1, "Hello", "The river runs")
    assert first["origins"] == ["target", "remote", "local"]
    assert (first["draft_passes_saved"], first["summary"]) == (4, SUMMARY)
    assert (refused["turn"], refused["error"]) == (2, "--max-tokens: 9 leaves no room")
    assert (last["turn"], last["text"]) == (3, "The river runs")
    assert talk("Hello\n", "--json")[0].exit_code == 0


def test_a_refused_message_is_no_part_of_the_conversation(talk: Talk) -> None:
    result, client = talk("Hello\nrefuse\nAgain\n")
    assert result.exit_code == 1
    assert "error: --max-tokens: 9 leaves no room" in result.stderr
    assert "refuse" not in str(client.asked[2][0])


def test_each_answer_tells_what_it_cost(talk: Talk) -> None:
    result, _ = talk("Hello\n")
    told = " ".join(result.stderr.split())
    for part in ("50.0 ms/token", "remote drafts accepted 1/4", "local drafts accepted 0/1", "RTT 31 ms", "4 saved"):
        assert part in told
    assert "remote draft 1 | local draft 1 | target 1" in told


def test_input_that_is_not_utf8(talk: Talk) -> None:
    result, _ = talk(b"Hello\n\xff\n")
    assert result.exit_code == 2
    assert "not UTF-8: line 2, byte 0" in result.stderr


def test_no_endpoint_is_exit_code_1(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Client) -> dict[str, str]:
        raise ServerError("nobody there")

    monkeypatch.setattr(Client, "parameters", refuse)
    monkeypatch.setattr("wanspec.cli.endpoint._speaks_http", lambda url: False)
    monkeypatch.setattr(Client, "models", refuse, raising=False)
    result, _ = talk("Hello\n", "--json")
    assert result.exit_code == 1
    assert "wanspec up" in json.loads(result.stdout)["error"]


def shown(**terminal: Any) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, **terminal)
    from wanspec.cli.render import styles_of

    painter = Painter(None, styles_of(console), marks=console.is_dumb_terminal)
    stream(Pending(), painter, console)  # type: ignore[arg-type]
    console.print(legend_for(console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_origins_are_told_apart_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown(color_system="256")
    assert "\x1b[1;32m river" in coloured
    assert "\x1b[33m runs" in coloured
    uncoloured = shown(color_system="256", no_color=True)
    assert "\x1b[1m river" in uncoloured
    assert "\x1b[4m runs" in uncoloured
    monkeypatch.setenv("TERM", "dumb")
    dumb = shown()
    assert dumb == "The [river] {runs}\ntokens by origin: [remote draft] | {local draft} | target\n"
