"""What is printed: tables within 80 columns, JSON lines, one page with its pictures in it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.bench.bench_doubles import results, sample, usage
from wanspec.bench.figures import make_figures
from wanspec.bench.rows import make_rows
from wanspec.bench.warnings import find_warnings
from wanspec.cli.bench_report import conditions, exactness, json_lines, show, write_html
from wanspec.simulation.plots import save_png

DOCS = (Path(__file__).parents[3] / "docs" / "bench.md").read_text()
REMOTE = {"positions": {"remote": [[40, 30], [20, 5], [3, 1]]}, "remote_draft_passes": 9}


@pytest.fixture
def measured():
    made = []
    for rtt in (10.0, 150.0):
        for n in range(4):
            made += [sample(name, n, rtt) for name in ("local", "target_only", "target_native")]
            made.append(sample("adaptive", n, rtt, latency_ms=1500.0 + rtt * n, local_draft_passes=n, **REMOTE))
            made.append(sample("wanspec:branching=1", n, rtt, positions={"local": [[9, 7]]}))
    return results(made)


def printed(measured, width=80):
    console = Console(file=io.StringIO(), width=width)
    show(measured, make_rows(measured), find_warnings(measured), console)
    return console.file.getvalue()


def test_tables_fit_80_columns_without_broken_words(measured):
    text = printed(measured)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(f" {name} " in text for name in ("latency", "accepted", "passes", "wanspec:branching=1", "/token"))
    (line,) = [line for line in text.partition("RTT 150 ms")[2].splitlines() if " adaptive " in line][:1]
    assert " 0.86 ±0.11 " in line
    assert line.rstrip().endswith("yes")
    assert "57% / -" in text


def test_conditions_and_warnings_are_part_of_it(measured):
    text = " ".join(printed(measured).split())
    assert "paced to 23.4 / 7.5 / 7.5 ms" in text
    assert "2 times as long" in text
    assert "all times but CPU's are given without that factor" in text
    assert "warning:" not in text
    slow = results([sample(target_ms=300.0)])
    assert "warning: target: a step took 60.0 ms" in " ".join(printed(slow).split())
    assert "unpaced" in conditions(results([sample()], profile="", time_scale=1.0))


def test_outputs_are_judged_in_words():
    right = results([sample()])
    assert exactness(right, make_rows(right)) == "Every output is the target's own: 10 tokens compared."
    wrong = results([sample(), sample("adaptive", exact=False)])
    assert exactness(wrong, make_rows(wrong)).startswith("NOT the target's own output: adaptive at RTT 30 ms.")
    assert " NO" in printed(wrong)


def test_json_lines_say_what_and_how(measured):
    lines = [json.loads(line) for line in json_lines(measured, make_rows(measured), ["slow"])]
    assert len(lines) == 10
    assert lines[0]["policy"] == "local"
    for line in lines:
        assert line["exact"] is True
        assert (line["time_scale"], line["tokens"], line["max_tokens"]) == (2.0, 40, 10)
        assert line["warnings"] == ["slow"]
        assert {"latency_p99_ms_interval", "wan_bytes_up_a_token", "acceptance_by_position", "machine"} < set(line)


def test_the_docs_name_every_field(measured):
    (line, *_) = (json.loads(line) for line in json_lines(measured, make_rows(measured), []))
    rows = [row for row in DOCS.partition("| field |")[2].splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {name for name in line if not name.endswith("_interval")}


def test_figures_are_the_papers_and_more(measured):
    latency, passes, ratios, acceptance = make_figures(measured, make_rows(measured), "")
    assert [panel.quantity for panel in latency.panels] == [f"share of answers, RTT {rtt} ms" for rtt in (10, 150)]
    curve = {curve.name: curve for curve in latency.panels[1].curves}["adaptive"]
    assert [(point.x, point.y.value) for point in curve.points] == [
        (750.0, 0.0), (750.0, 0.25), (825.0, 0.5), (900.0, 0.75), (975.0, 1.0),
    ]  # fmt: skip
    assert [curve.name for curve in passes.panels[0].curves] == ["adaptive", "wanspec:branching=1"]
    assert passes.panels[0].curves[0].points[-1].x == 3 / 8
    assert [point.x for point in ratios.panels[0].curves[0].points] == [10.0, 150.0]
    remote, local = acceptance.panels
    assert [(point.x, point.y.value) for point in remote.curves[0].points] == [(1, 0.75), (2, 0.25), (3, 1 / 3)]
    assert remote.curves[0].points[0].y.low < 0.75 < remote.curves[0].points[0].y.high
    assert [curve.name for curve in local.curves] == ["wanspec:branching=1"]
    assert remote.curves[0].name == "adaptive"
    assert acceptance.colour("adaptive") == latency.colour("adaptive") == 3


def test_the_page_needs_nothing_beside_it(measured, tmp_path):
    rows = make_rows(measured)
    write_html(measured, rows, ["too <slow>"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 4
    assert "<td>wanspec:branching=1" in page
    assert "too &lt;slow&gt;" in page
    assert "<script" not in page
    assert "src=" not in page
    for figure in make_figures(measured, rows, ""):
        save_png(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_several_at_once_have_rows_of_their_own():
    made = [sample(name, n, concurrency=many) for many in (1, 4) for name in ("local", "adaptive") for n in range(4)]
    used = [usage(name, concurrency=many) for many in (1, 4) for name in ("local", "adaptive")]
    text = printed(results(made, used))
    assert "RTT 30 ms, 1 at once" in text
    assert "RTT 30 ms, 4 at once" in text
