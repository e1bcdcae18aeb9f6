"""``wanspec chat``: a conversation with a running endpoint, in a terminal or through pipes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from wanspec.cli.answers import answer_as_json, stream, whole
from wanspec.cli.command import JSON_OPTION, as_typed
from wanspec.cli.configured import ConfiguredCommand, config_option
from wanspec.cli.conversation import COMMANDS, Conversation
from wanspec.cli.endpoint import endpoint_parameters
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.render import legend_for, make_console, painter_for, summary_line
from wanspec.cli.request_options import inputs_of, request_options
from wanspec.errors import WanspecError
from wanspec.network.tls import Tls
from wanspec.triton.client import Answer, WanspecClient

PROMPT = "> "


@click.command(
    cls=ConfiguredCommand,
    done="the conversation ended",
    failed="no endpoint was there, or, with messages from a pipe, one of them had no answer",
)
@config_option
@request_options
@click.option("--system", default="", metavar="TEXT", help="What the model is told before the conversation.")
@JSON_OPTION
def chat(url: str, tls: Tls | None, system: str, no_color: bool, as_json: bool, **options: Any) -> None:
    """Talk with a running endpoint (`wanspec up` starts one).

    Each token shows who proposed it: the draft in the other region, the draft beside the target, or the target itself.
    A line below each answer tells what it cost. "Saved" are draft passes that the scarce region did not run, because
    the worker's drafts were verified in their place.

    Ctrl-C ends an answer in both regions; what has come of it stays. Ctrl-D ends the conversation. Type /help for
    commands. From a pipe, each line is a message; with --json each answer is an object on a line of its own.

    \b
    Examples:
      wanspec chat
      wanspec chat --system "Answer in one sentence." --temperature 0.7
      wanspec chat --policy local --set k=3
      printf 'Name a river.\\nAnd another one.\\n' | wanspec chat --json
    """
    inputs = inputs_of(options)
    client = WanspecClient(url, tls=tls)
    parameters = endpoint_parameters(client, url)
    conversation = Conversation(parameters.get("chat_template") == "yes", inputs, system)
    screen = _Screen(parameters, color=not no_color, as_json=as_json)
    screen.welcome(url, inputs["policy"] or parameters.get("policy", ""), conversation.templated)
    if not _Chat(client, conversation, screen).run():
        sys.exit(ExitCode.FAILED)


class _Screen:
    """Where answers, and what is said about them, are shown."""

    def __init__(self, parameters: dict[str, str], *, color: bool, as_json: bool) -> None:
        self.as_json = as_json
        self.interactive = sys.stdin.isatty()
        self._parameters = parameters
        self._console = make_console(color=color)
        # For a pipe, standard output is the answers alone.
        on_screen = self._console.is_terminal and not as_json
        self._notes = self._console if on_screen else make_console(color=color, stderr=True)

    def welcome(self, url: str, policy: str, templated: bool) -> None:
        """Say what is talked with, and how."""
        if not self.interactive:
            return
        model = self._parameters.get("target_dir", "").rpartition("/")[2] or "the model"
        self.note(f"{model} at {url}, policy {policy}. /help lists commands, Ctrl-D ends.")
        if not templated:
            self.note("It has no chat template: it goes on with the text so far, each message on a line of its own.")
        self._notes.print(legend_for(self._notes))

    def lines(self) -> Iterator[str]:
        """What is typed or piped, line by line, until its end.

        Raises:
            click.UsageError: it is not UTF-8.
        """
        if not self.interactive:
            for number, line in enumerate(sys.stdin.buffer, 1):
                try:
                    yield line.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise click.UsageError(f"standard input is not UTF-8: line {number}, byte {error.start}") from error
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # importing it gives input() a history and editing
        while True:
            try:
                yield self._ask().encode(errors="replace").decode()  # what was typed may hold halves of characters
            except EOFError:
                self._notes.print()
                return
            except KeyboardInterrupt:
                self._notes.print()
                self.note("Ctrl-D or /exit ends the conversation.")

    def answer(self, pending: Any, message: str, turn: int) -> Answer:
        """Show an answer as it comes."""
        if self.as_json:
            answer = whole(pending)
            self._json(turn, message, answer_as_json(answer))
            return answer
        painter = painter_for(self._console, self._parameters)
        answer = stream(pending, painter, self._console)
        by_token = painter.by_token or not self._console.is_terminal
        self._notes.print(legend_for(self._notes, answer.origins, by_token=by_token))
        self._notes.print(summary_line(answer.summary), style="dim")
        return answer

    def refused(self, error: WanspecError, message: str, turn: int) -> None:
        """Say why there is no answer."""
        said = as_typed(str(error), click.get_current_context().command)
        if self.as_json:
            self._json(turn, message, {"error": said})
        else:
            self._notes.print(Text(f"error: {said}", "bold red"), soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that is no answer."""
        self._notes.print(Text(text, "dim"))

    def help(self) -> None:
        """List the commands."""
        for usage, meaning in COMMANDS.items():
            self.note(f"{usage}: {meaning}")

    def _ask(self) -> str:
        if sys.stdout.isatty():
            return input(PROMPT)
        # Where standard output is a pipe, a prompt would be among the answers.
        click.echo(PROMPT, err=True, nl=False)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def _json(self, turn: int, message: str, values: dict[str, Any]) -> None:
        click.echo(json.dumps({"turn": turn, "message": message, **values}, ensure_ascii=False))


class _Chat:
    """The conversation's loop."""

    def __init__(self, client: WanspecClient, conversation: Conversation, screen: _Screen) -> None:
        self._client = client
        self._conversation = conversation
        self._screen = screen
        self._turn = 0

    def run(self) -> bool:
        """Answer every line; return whether all of a pipe's had an answer."""
        failed = False
        for line in self._screen.lines():
            if line.startswith("/"):
                if line.split()[0] in ("/exit", "/quit"):
                    break
                failed |= not self._command(line)
            elif line.strip():
                failed |= not self._answer(line.strip())
        return self._screen.interactive or not failed

    def _command(self, line: str) -> bool:
        if line.split()[0] == "/help":
            self._screen.help()
            return True
        try:
            self._screen.note(self._conversation.command(line))
        except WanspecError as error:
            self._screen.refused(error, line, self._turn)
            return False
        return True

    def _answer(self, message: str) -> bool:
        self._turn += 1
        conversation = self._conversation
        pending = None
        try:
            pending = self._client.ask(conversation.prompt(message), **conversation.inputs)
            answer = self._screen.answer(pending, message, self._turn)
        except WanspecError as error:
            self._screen.refused(error, message, self._turn)
            return False
        except KeyboardInterrupt:
            if pending is None or not self._screen.interactive:
                raise
            pending.cancel()
            answer = pending.answer
            self._screen.note(f"ended after {len(answer.tokens)} tokens; what came stays in the conversation")
        if answer.text:
            conversation.turns.append((message, answer.text))
        return True
