"""The documentation: the site builds and fetches nothing, and every code block parses."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snippets import ROOT, Snippet, snippets
from tests.unit.cli.walk import commands, invocations, parse
from wanspec.config import load

ALL = list(snippets())
TEXT = {"", "text", "hex"}
"""Blocks that show what is printed, or what is sent."""
FETCHED = re.compile(r"""<(?:link|script|img|iframe)\b[^>]*?(?:href|src)=["']?((?:https?:)?//[^"' >]+)""")
STYLE_FETCHED = re.compile(r"""(?:url\(|@import )\s*["']?((?:https?:)?//[^"')]+)""")


def blocks(language: str) -> list[Snippet]:
    return [each for each in ALL if each.language == language]


def named(each: Snippet) -> str:
    return each.name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).is_file()
    assert "Speculative decoding" in (site / "concepts.html").read_text()


def test_the_site_fetches_nothing(site: Path) -> None:
    assert FETCHED.search('<link rel=stylesheet href="https://fonts.googleapis.com/css">')
    fetched = {
        str(path.relative_to(site)): found
        for path in site.rglob("*")
        if path.suffix in (".html", ".css", ".svg")
        for found in (STYLE_FETCHED if path.suffix != ".html" else FETCHED).findall(path.read_text())
    }
    assert fetched == {}


def test_the_site_has_every_command_and_option(site: Path) -> None:
    page = (site / "commands.html").read_text()
    for path, command in commands():
        title = "wanspec " + " ".join(path)
        assert f'<h2 id="{title.replace(" ", "-")}">{title}' in page
        section = page.partition(f">{title}<a")[2].partition("<h2")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(name in section for name in parameter.opts), (title, parameter.opts)


def test_blocks_have_a_language_that_is_checked() -> None:
    assert {each.language for each in ALL} <= TEXT | {"bash", "python", "yaml", "json"}
    assert len(blocks("bash")) > 20


@pytest.mark.parametrize("each", [each for each in ALL if each.language in ("python", "json", "yaml")], ids=named)
def test_blocks_parse(each: Snippet, tmp_path: Path) -> None:
    if each.language == "python":
        ast.parse(each.code)
    elif each.language == "json":
        json.loads(each.code)
    else:
        (tmp_path / "wanspec.yaml").write_text(each.code)
        assert load(tmp_path / "wanspec.yaml", {}).config.model_fields_set, "no configuration is shown"


@pytest.mark.parametrize("each", blocks("bash"), ids=named)
def test_shell_parses_and_its_commands_exist(each: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.sub(r"<that URL>", "URL", each.code)
    subprocess.run(["bash", "-n"], input=code, text=True, check=True, timeout=20)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wanspec.yaml").write_text("link: {rtt_ms: 70}\n")
    for words in invocations(code):
        with parse(words):
            pass


def test_the_pictures_are_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / path).stat().st_size > 1000, path
