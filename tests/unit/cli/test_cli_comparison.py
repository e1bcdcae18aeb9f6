"""What the demo concludes from its figures."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from wanspec.cli.comparison import Figures, Run, exactness_sentence, figures, figures_as_json, figures_table, verdict
from wanspec.exactness import Divergence, Exactness

EXACT = Exactness(20)


def summary(**changes):
    return {
        "latency_ms": 1000.0,
        "ttft_ms": 50.0,
        "output_tokens": 10,
        "rounds": 5,
        "local_draft_passes": 8,
        "remote_draft_passes": 9,
        "drafted_remote": 4,
        "accepted_remote": 3,
        "accepted_local": 2,
        "target_ms": 400.0,
        "local_draft_ms": 100.0,
    } | changes


def row(policy="wanspec", **changes):
    runs = [Run(policy, number, summary(**changes)) for number in range(2)]
    return figures(policy, runs, EXACT)


def test_times_are_medians_and_counts_are_sums():
    runs = [Run("wanspec", n, summary(latency_ms=latency)) for n, latency in enumerate((500.0, 1000.0, 9000.0))]
    made = figures("wanspec", [*runs, Run("local", 0, summary(rounds=99))], EXACT)
    assert made.ms_per_token == 100.0
    assert made.engine_ms_per_token == 50.0
    assert (made.rounds, made.tokens, made.local_draft_passes, made.accepted_remote) == (15, 30, 24, 9)
    assert made.tokens_per_round == 2.0
    assert figures_as_json(made)["tokens_per_round"] == 2.0


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"local_draft_passes": 2}, "saved 12 of 16 draft passes in the scarce region (75%)"),
        ({"local_draft_passes": 10}, "cost another 4 of 16"),
        ({"latency_ms": 800.0}, "was 20% faster; against `target_only` it was 20% faster"),
        ({"latency_ms": 1500.0}, "was 50% slower"),
        ({"latency_ms": 1010.0}, "was as fast"),
        ({"target_ms": 150.0}, "50% less engine time"),
        ({"target_ms": 650.0}, "50% more engine time"),
        ({}, "as much engine time"),
    ],
)
def test_the_verdict_is_honest_in_both_directions(split, said):
    assert said in verdict(row(**split), row("local"), row("target_only"))


def test_a_baseline_without_drafts_divides_by_nothing():
    nothing = row("local", local_draft_passes=0, target_ms=0.0, local_draft_ms=0.0)
    assert "saved -" not in verdict(row(), nothing, row("target_only"))


def test_exactness_is_said_as_it_is():
    near, far = Divergence(3, 1, 2, 1e-5), Divergence(4, 1, 2, 0.5)
    assert "identical" in exactness_sentence(EXACT)
    assert "near-ties" in exactness_sentence(Exactness(20, (near,)))
    assert "token 4" in exactness_sentence(Exactness(20, (far,)))
    assert exactness_sentence(Exactness(20, (far,))).startswith("NOT")
    outputs = [figures("p", [Run("p", 0, summary())], each).output for each in (None, EXACT, Exactness(20, (near,)))]
    assert outputs == ["reference", "identical", "near-tie"]
    assert figures("p", [Run("p", 0, summary())], Exactness(20, (far,))).output == "DIFFERS"


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_the_terminal(width):
    console = Console(file=io.StringIO(), width=width)
    rows: list[Figures] = [row("wanspec"), row("local"), row("target_only")]
    console.print(figures_table(rows))
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert any("target_only" in line and "identical" in line for line in lines)
    assert any("accepted" in line or "drafts" in line for line in lines)
