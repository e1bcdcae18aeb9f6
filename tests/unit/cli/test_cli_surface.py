"""What holds for every command: examples that parse, exit codes, JSON, NO_COLOR, narrow terminals, completion."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.unit.bench.bench_doubles import results, sample
from tests.unit.cli.walk import commands, invocations, parse
from wanspec.bench.rows import make_rows
from wanspec.cli import bench_report
from wanspec.cli.completion import SHELLS
from wanspec.cli.exit_codes import ExitCode
from wanspec.cli.group import cli
from wanspec.cli.tables import table

ALL = dict(commands())
NO_RESULT = {("completion",)}
"""Commands that print a script or nothing."""
COLOUR = re.compile(r"\x1b\[[\d;]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])\b[\d;]*m")
QUICK = (
    ("doctor",),
    ("models", "list"),
    ("config", "show"),
    ("config", "check"),
    ("simulate", "--requests", "2", "--tokens", "8", "--rtt", "10,30", "--policy", "adaptive,wanspec:phi=0.2:k=3"),
    ("advise", "--requests", "8", "--tokens", "8", "--policy", "wanspec"),
)
"""Commands that show something without servers, in a second or two."""


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environment)


def examples(command: click.Command) -> str:
    text = (command.help or "").partition("Examples:\n")[2]
    return text.split("\n\n")[0]


def test_the_walk_finds_the_commands() -> None:
    assert {("up",), ("chat",), ("models", "pull"), ("config", "show"), ("completion",)} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_examples_parse(path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wanspec.yaml").write_text("link: {rtt_ms: 70}\n")
    shown = run(*path, "--help").output
    called = list(invocations(examples(ALL[path])))
    assert [words[: len(path)] for words in called].count(list(path)) > 0
    for words in called:
        assert " ".join(words[: len(path)]) in shown
        with parse(words) as context:
            assert context.command.name == words[len(path) - 1] or context.command is not ALL[path]


def test_an_example_with_an_unknown_option_would_be_found() -> None:
    (words,) = invocations('  cat q.txt | wanspec generate "Why?" --politeness 3 > out    with a remark')
    assert words == ["generate", "Why?", "--politeness", "3"]
    with pytest.raises(click.NoSuchOption):
        parse(words)


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_exit_codes_are_documented(path: tuple[str, ...]) -> None:
    shown = run(*path, "--help").output.partition("Exit codes:\n")[2]
    assert [int(code) for code in re.findall(r"^ {2}(\d+) ", shown, re.M)] == [int(code) for code in ExitCode]


def test_no_code_is_written_but_from_the_table() -> None:
    sources = Path(cli.callback.__code__.co_filename).parent.glob("*.py")  # type: ignore[union-attr]
    assert [str(path) for path in sources if re.search(r"exit\(\d", path.read_text())] == []


@pytest.mark.parametrize("path", [path for path in ALL if path not in NO_RESULT], ids=" ".join)
def test_results_are_printed_as_json_too(path: tuple[str, ...]) -> None:
    assert "--json" in {option for each in ALL[path].params for option in each.opts}


@pytest.mark.parametrize("path", [path for path in ALL if path not in NO_RESULT], ids=" ".join)
def test_a_wrong_command_line_is_json_too(path: tuple[str, ...]) -> None:
    plain = run(*path, "--no-such-option")
    assert (plain.exit_code, plain.stdout) == (ExitCode.USAGE, "")
    assert "No such option" in plain.stderr
    answer = run(*path, "--json", "--no-such-option")
    assert answer.exit_code == ExitCode.USAGE
    assert "--no-such-option" in json.loads(answer.stdout)["error"]


def test_what_a_command_finds_wrong_itself_is_json_too() -> None:
    answer = run("generate", "--json")
    assert answer.exit_code == ExitCode.USAGE
    assert json.loads(answer.stdout)["error"].startswith("give a PROMPT in quotes")


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_help_at_every_width(path: tuple[str, ...], width: int) -> None:
    result = run(*path, "--help", COLUMNS=str(width))
    assert result.exit_code == 0
    assert "Usage: wanspec" in result.output or "Usage: cli" in result.output


@pytest.mark.parametrize("arguments", QUICK, ids=lambda words: " ".join(words[:2]))
def test_colours_go_where_they_are_wanted(arguments: tuple[str, ...]) -> None:
    seen = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}
    plain = run(*arguments, **seen, NO_COLOR="1")
    assert plain.exit_code == 0, plain.output
    assert not COLOUR.search(plain.output)
    assert "\x1b" not in run(*arguments, COLUMNS="80").output


def test_colours_would_be_found() -> None:
    assert COLOUR.search(run("doctor", FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="").output)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("arguments", QUICK, ids=lambda words: " ".join(words[:2]))
def test_results_fit_their_terminal(arguments: tuple[str, ...], width: int) -> None:
    result = run(*arguments, COLUMNS=str(width))
    assert result.exit_code == 0, result.output
    if arguments[0] != "config":  # YAML is not for looking at
        assert max(map(len, result.stdout.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_benchmarks_tables_fit(width: int) -> None:
    made = results([sample("local"), sample("wanspec:branching=1")])
    console = Console(file=io.StringIO(), width=width)
    bench_report.show(made, make_rows(made), ["a warning " * 20], console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert "wanspec:branching=1" in shown


def drawn(width: int, make: Callable[[], Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(make())
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def rows() -> Any:
    view = table("policy!", "latency\nratio#", "what it says")
    view.add_row("RTT 30 ms")
    view.add_row("wanspec:branching=1", "0.97 ±0.02", "words of a remark that need some room")
    view.add_row("local", "", "short")
    return view


def test_a_table_that_does_not_fit_becomes_blocks_in_which_no_name_or_figure_is_torn() -> None:
    wide = drawn(80, rows)
    assert any("wanspec:branching=1" in line and "0.97 ±0.02" in line and "need some room" in line for line in wide)
    narrow = drawn(30, rows)
    assert narrow[0] == "RTT 30 ms"
    assert "latency ratio  0.97 ±0.02" in narrow
    assert any(line.startswith("policy") and line.endswith("wanspec:branching=1") for line in drawn(40, rows))
    last = next(n for n, line in enumerate(narrow) if line.startswith("policy") and line.endswith("local"))
    assert not any(line.startswith("latency ratio") for line in narrow[last:]), "an empty cell takes no line"
    assert all(len(line) <= 30 for line in narrow)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, tmp_path: Path) -> None:
    script = run("completion", shell).output
    assert f"_WANSPEC_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=20)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("wanspec cha", "chat"), ("wanspec chat --tem", "--temperature"), ("wanspec models pu", "pull")],
)
def test_bash_is_offered_what_fits(typed: str, offered: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_WANSPEC_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", "from wanspec.cli import main; main()"],
        env=os.environ | words,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == [f"plain,{offered}"]


def test_a_file_that_cannot_be_written_is_a_message_with_a_cure(tmp_path: Path) -> None:
    arguments = ("simulate", "--requests", "1", "--tokens", "2", "--event-log", str(tmp_path / "no" / "log"))
    result = run(*arguments)
    assert result.exit_code == 1
    assert f"{tmp_path}/no/log: No such file or directory; check the name" in result.stderr
    assert "the folder must exist" in json.loads(run(*arguments, "--json").stdout)["error"]
