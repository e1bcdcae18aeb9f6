"""The command line written down, as a page: made from the commands themselves, when the documentation is built."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

import click

from wanspec.cli.command import JsonErrors
from wanspec.cli.exit_codes import ExitCode, meanings
from wanspec.cli.group import cli

INTRODUCTION = """\
# Commands

Made from the commands when this site is built: what `wanspec COMMAND --help` prints is the same.

What a command tells is on standard output: tables and text for people, JSON with `--json`. Progress, notes and errors
are on standard error; with `--json` an error, also that of a wrong command line, is `{"error": "..."}` on standard
output. Nothing but the answer itself goes into a pipe. Colours are left out where `NO_COLOR` is set, and where the
output is no terminal; a table that a terminal is too narrow for becomes a block of lines for each row.

`wanspec completion bash` (or `zsh`, `fish`) prints the script that completes commands, options and their values:

```bash
source <(wanspec completion bash)
```
"""


def markdown() -> str:
    """The reference page."""
    parts = [INTRODUCTION, "\n## Exit codes\n", _exit_codes(dict(meanings()))]
    for path, command in leaves(cli, ("wanspec",)):
        parts.append("\n" + "\n".join(_page(path, command)) + "\n")
    return "\n".join(parts)


def leaves(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that call it."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


def _page(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    title = " ".join(path)
    with click.Context(command, info_name=title, max_content_width=100) as context:
        usage = " ".join([title, *command.collect_usage_pieces(context)])
        yield f"## {title}\n\n```text\n{usage}\n```\n"
        yield from _help(command)
        records = [record for each in command.get_params(context) if (record := each.get_help_record(context))]
    yield "| option | meaning |\n|---|---|"
    for names, meaning in records:
        yield f"| {_code(names)} | {_escaped(meaning)} |"
    if isinstance(command, JsonErrors):
        own = {
            code: meaning for code, meaning in command.exit_codes.items() if meaning not in dict(meanings()).values()
        }
        if own:
            yield "\n" + _exit_codes(own)


def _help(command: click.Command) -> Iterator[str]:
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if not paragraph.startswith("\b\n"):
            yield _escaped(" ".join(paragraph.split())) + "\n"
            continue
        first, *lines = paragraph.removeprefix("\b\n").splitlines()
        if first == "Examples:":
            yield "```bash\n" + "\n".join(map(_example, lines)) + "\n```\n"
        else:
            yield "```text\n" + "\n".join([first, *lines]) + "\n```\n"


def _example(line: str) -> str:
    """One line of examples: what is said beside the command becomes a comment."""
    command, gap, remark = re.fullmatch(r"(.*?)(?:(\s{2,})(.*))?", line.strip()).groups()  # type: ignore[union-attr]
    return f"{command}{gap}# {remark}" if remark else command


def _exit_codes(codes: Mapping[ExitCode, str]) -> str:
    rows = [f"| {int(code)} | {_escaped(meaning)} |" for code, meaning in codes.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows])


def _code(names: str) -> str:
    # Inside code, a table's bar is written as an entity that only HTML understands.
    return f"<code>{names.replace('<', '&lt;').replace('|', '&#124;')}</code>"


def _escaped(text: str) -> str:
    """Text for Markdown, in a paragraph or a table's cell; what is between backticks stays."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"([\\*_|\[\]])", r"\\\1", parts[index]).replace("<", "&lt;")
    for index in range(1, len(parts), 2):
        parts[index] = parts[index].replace("|", "\\|")
    return "`".join(parts)
