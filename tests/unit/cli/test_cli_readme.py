"""The README names only what exists."""

from __future__ import annotations

import re
from pathlib import Path

from wanspec.cli.group import cli

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()

FENCES = README.split("```")
CODE = [line for block in FENCES[1::2] for line in block.splitlines()]
CODE += [span for text in FENCES[::2] for span in re.findall(r"`([^`\n]+)`", text)]


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist():
    named = {name for code in CODE for name in re.findall(r"^make ([a-z]+)", code)}
    assert {"demo", "test", "acceptance", "lint", "clean"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.M))


def test_commands_and_their_options_exist():
    lines = [found for code in CODE for found in re.findall(r"^(?:.venv/bin/)?wanspec ([a-z-]+)([^#]*)", code)]
    assert {name for name, _ in lines} >= {"up", "generate", "demo", "doctor"}
    for name, rest in lines:
        options = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name


def test_continuous_integration_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert "\nmake test\n" in script
    assert "make test" in README
