"""Every command, and the examples of its help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from wanspec.cli.group import cli


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, by its words on the command line."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def invocations(shell: str) -> Iterator[list[str]]:
    """The words after ``wanspec`` of every call in some lines of shell; what is said beside them is left out."""
    for line in shell.replace("\\\n", " ").splitlines():
        said = re.split(r"\s{2,}", line.strip())[0]
        if "wanspec" not in said:
            continue
        words = _words(said)
        for start, word in enumerate(words):
            before = words[start - 1] if start else ";"
            called = _is_operator(before) or re.match(r"[A-Z_]+=", before)
            if word.rpartition("/")[2] != "wanspec" or not called:
                continue
            rest = words[start + 1 :]
            end = next((n for n, each in enumerate(rest) if _is_operator(each)), len(rest))
            yield rest[:end]


def _is_operator(word: str) -> bool:
    return set(word) <= set("|;&<>()")


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def parse(words: list[str]) -> click.Context:
    """Read a command line as the command would; raise as it would."""
    command: click.Command = cli
    name = "wanspec"
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        name, *words = words
        command = command.commands[name]
    return command.make_context(name, list(words))
