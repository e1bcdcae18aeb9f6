"""The command that measures every figure anew: what it runs, keeps and writes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.figures import FIGURES, PAGES, RESULTS, keep, main, measure, read, rendered
from wanspec.cli.group import cli

DEMO = {
    "machine": "a machine",
    "verdict": "It was faster.",
    "runs": [1, 2],
    "policies": {
        name: {
            "policy": name, "ms_per_token": ms, "ttft_ms": 100.0, "rounds": 5, "tokens_per_round": 2.0,
            "local_draft_passes": 3, "engine_ms_per_token": 40.0, "output": "identical",
        }
        for name, ms in (("local", 70.0), ("adaptive", 48.123))
    },
}  # fmt: skip


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_commands_are_ones_that_exist_and_print_json(figure):
    for command in figure.commands:
        program, name, *rest = shlex.split(command)
        if program == "python":
            assert (name, rest[0].partition(".")[0]) == ("-m", "benchmarks")
            assert (RESULTS.parent / f"{rest[0].partition('.')[2]}.py").is_file()
            continue
        options = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options
        assert "--json" in rest


def test_every_figure_has_a_place_on_the_results_page_and_no_place_is_unknown():
    names = [figure.name for figure in FIGURES]
    places = [re.findall(r"<!-- figure (\S+) -->", page.read_text()) for page in PAGES]
    assert places[1] == names
    assert set(places[0]) <= set(names)
    assert all(page.read_text().count("<!-- end -->") == len(found) for page, found in zip(PAGES, places, strict=True))


def test_pages_show_what_was_measured():
    for page in PAGES:
        text = page.read_text()
        assert rendered(text) == text, f"{page.name}: python -m benchmarks.figures --render"
    for file in RESULTS.glob("*.json"):
        assert all(report.get("exact", True) for report in json.loads(file.read_text())["printed"])


def test_a_table_is_written_in_its_place_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    page = "before\n<!-- figure demo-small -->\nold\n<!-- end -->\nafter\n<!-- figure loss -->\n<!-- end -->\n"
    keep(next(figure for figure in FIGURES if figure.name == "demo-small"), read(json.dumps(DEMO, indent=2)))
    assert "runs" not in json.loads((tmp_path / "results" / "demo-small.json").read_text())["printed"][0]
    lines = rendered(page).splitlines()
    assert "| `adaptive` | 48.1 | 100 | 5 | 2.00 | 3 | 40.0 | identical |" in lines
    assert lines.index("| `adaptive` | 48.1 | 100 | 5 | 2.00 | 3 | 40.0 | identical |") < lines.index("It was faster.")
    assert "wanspec demo --pair small --json" in lines
    assert "old" not in lines
    assert lines[-3:] == ["after", "<!-- figure loss -->", "<!-- end -->"]


def test_lines_of_objects_are_read_too():
    assert read('{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]


def test_a_command_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    broken = figures.Figure("broken", ("wanspec bench --prompts 0 --json",), ())
    with pytest.raises(SystemExit, match="broken: exit code 2"):
        measure(broken)
    assert list(tmp_path.iterdir()) == []


def test_a_list_measures_nothing(capsys):
    assert main(["--list", "--only", "capacity"]) == 0
    assert "--capacity 1,8 --leaves" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])


def test_the_pages_are_in_the_repository():
    assert all(Path(page).is_file() for page in PAGES)
