"""The worksheet: its formulas give its values, and what it takes from the simulation is what that says."""

from __future__ import annotations

import math
import re
import shlex

import pytest

from tests.snippets import ROOT, snippets
from tests.unit.cli.walk import invocations, parse
from wanspec.cli.simulation_options import contenders, make_setup
from wanspec.simulation.advice import BASELINE
from wanspec.simulation.comparison import compare
from wanspec.simulation.experiment import run

PAGE = ROOT / "docs" / "worksheet.md"
TEXT = PAGE.read_text()
REQUESTS = 40


def rows(header: str) -> list[list[str]]:
    """Cells of the table with this header; names without their quotes."""
    table = TEXT.partition(f"| {header} |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert table, header
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]


GIVEN = {name: float(value) for name, value, _ in rows("name | value | unit")}
SIMULATED = {name: float(value) for name, value, _ in rows("name | value | field of `choices`")}
SHEET = rows("name | formula | value | unit")


def rounded(value: float, like: str) -> str:
    """As the page shows it: with as many digits after the point."""
    return f"{value:.{len(like.partition('.')[2])}f}"


def computed() -> dict[str, float]:
    known: dict[str, float] = GIVEN | SIMULATED
    for name, formula, _, _ in SHEET:
        assert re.fullmatch(r"[\w\s.+*/()-]+", formula), formula
        known[name] = eval(formula, {"__builtins__": {}, "ceil": math.ceil}, known)
    return known


@pytest.mark.parametrize(("name", "formula", "value", "unit"), SHEET, ids=[row[0] for row in SHEET])
def test_a_formula_gives_its_value(name: str, formula: str, value: str, unit: str) -> None:
    assert rounded(computed()[name], value) == value


def test_a_wrong_value_would_be_found() -> None:
    assert rounded(computed()["saved_hours"] * 1.01, "8.56") != "8.56"


def test_what_is_said_of_it_follows() -> None:
    said = TEXT.partition("Read: ")[2].partition("\n\n")[0]
    known = computed()
    assert f"{1 - known['latency']:.0%} off an answer's time" in said
    assert abs(1 - known["scarce_gpu"] - 1 / 3) < 0.05
    assert f"more than {known['break_even']:.2f} an hour" in said.replace("\n", " ")
    assert (known["split_gpus"], known["local_gpus"]) == (3, 5)


def test_the_simulation_says_what_the_page_does() -> None:
    (code,) = (each.code for each in snippets(PAGE) if each.language == "bash")
    (words,) = invocations(code)
    with parse([*words, f"--requests={REQUESTS}"]) as context:
        options = dict(context.params)
    assert (options["rtt_ms"], options["acceptance"]) == (GIVEN["rtt_ms"], GIVEN["acceptance"])
    assert shlex.quote(f"{GIVEN['target_ms']:g}/{GIVEN['draft_ms']:g}") == options["timing"]
    options["source"] = f"iid:{options['acceptance']}"
    setup = make_setup(options, options["rtt_ms"])
    (policy,) = contenders(options["policy"])
    found = run(setup, [BASELINE, policy], processes=1)
    mine = found[policy.name]
    comparison = compare(mine, found[BASELINE.name])
    tokens = sum(each.tokens for each in mine)
    assert comparison.latency_ratio.value == pytest.approx(SIMULATED["latency"], abs=0.03)
    assert comparison.scarce_gpu_ratio.value == pytest.approx(SIMULATED["scarce_gpu"], abs=0.03)
    assert comparison.draft_passes_saved.value == pytest.approx(SIMULATED["passes_saved"], abs=0.05)
    assert comparison.remote_passes_a_token == pytest.approx(SIMULATED["worker_passes"], rel=0.1)
    bytes_a_token = sum(each.bytes_up + each.bytes_down for each in mine) / tokens
    assert bytes_a_token == pytest.approx(SIMULATED["bytes"], rel=0.15)
