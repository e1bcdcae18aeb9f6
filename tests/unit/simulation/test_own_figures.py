"""The figures that show what ``adaptive`` adds: aims, fronts, and the grid of conditions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from wanspec.errors import ConfigError
from wanspec.simulation.comparison import Comparison, Estimate
from wanspec.simulation.evaluation import WANTED_16, WANTED_64, Aim, Evaluation, conditions
from wanspec.simulation.experiment import run, run_jobs
from wanspec.simulation.figures import agreements
from wanspec.simulation.gpu import Costs
from wanspec.simulation.pareto import Knob, Place, Sweep, front, lead
from wanspec.simulation.robustness import LIMIT, SINGLE_REGION, Cell, Finding, Grid, Trial, figure
from wanspec.simulation.setup import Contender, Setup
from wanspec.simulation.sources import reference
from wanspec.simulation.traces import TracePair, TraceRow, TraceText, write_trace


def compared(latency, saved, scarce):
    latency_ratio, passes, gpu = (Estimate(value, value, value) for value in (latency, saved, scarce))
    return Comparison(latency_ratio, passes, gpu, latency_ratio, 1.0, 1.0, 1.0)


def test_an_aim_is_met_by_all_three_figures_together():
    aim = Aim(0.74, 0.88, 0.73)
    assert aim.missed(compared(0.74, 0.88, 0.73)) == []
    assert aim.missed(compared(0.70, 0.80, 0.90)) == ["passes", "GPU"]
    assert aim.missed(compared(0.75, 1.00, 0.50)) == ["latency"]


def test_aims_grow_easier_with_the_round_trip_and_harder_with_leaves():
    for aims in (WANTED_16, WANTED_64):
        rows = list(aims.values())
        assert all(a.latency < b.latency and a.saved > b.saved and a.scarce < b.scarce for a, b in pairwise(rows))
    assert all(WANTED_64[rtt].latency < WANTED_16[rtt].latency for rtt in WANTED_16)


def test_the_evaluation_holds_rows_against_their_aims(tmp_path):
    row = TraceRow((1, 2, 3, 4), (-0.1, -2.5, -4.0, -5.0), 0.4)
    text = TraceText((9, 8), (1, 5, 1, 1), (-0.1,) * 4, (row,) * 4)
    write_trace(tmp_path / "two.trace.gz", TracePair((text, text), 50, {}))
    found = conditions(Costs(), 3, 20, 1, [tmp_path / "two.trace.gz"])
    assert [each.name for each in found][-2:] == ["16 leaves, coupled sampling at T = 1", "16 leaves, trace two"]
    assert (found[-1].setup.requests, found[-1].setup.tokens, found[-2].setup.temperature) == (2, 4, 1.0)
    assert found[3].setup.costs.pass_ms == 3 * Costs().pass_ms
    told = []
    how = Evaluation([found[0], found[-1]], rtts=(30.0,), progress=told.append)
    made = how.figure()
    assert sum(told) == how.requests
    ours = [each for each in made.rows if each["policy"] == "adaptive"]
    missed = Aim(0.74, 0.88, 0.73).missed(
        compared(ours[0]["latency_ratio"], ours[0]["draft_passes_saved"], ours[0]["scarce_gpu_ratio"])
    )
    assert (ours[0]["wanted_missed"], "wanted" in ours[1]) == (missed, False)
    assert {each["policy"] for each in made.rows} >= {"local, best k", "local_adaptive", "wanspec", "oracle"}
    # One aim a panel, compared without tolerance.
    assert [each.agrees for each in agreements(made)] == [name not in missed for name in ("latency", "passes", "GPU")]


PLACES = [Place(0, 0.8, 0.9), Place(1, 0.9, 0.5), Place(2, 0.95, 0.6), Place(3, 1.0, 0.2)]


def test_a_front_leaves_out_what_another_place_beats():
    assert front(PLACES) == [PLACES[0], PLACES[1], PLACES[3]]


def test_a_front_beyond_another_says_by_how_much():
    ours = [Place(0, 0.7, 0.6), Place(1, 0.9, 0.3), Place(2, 1.0, 0.1)]
    ahead = lead(ours, PLACES)
    assert ahead.beyond
    assert ahead.passes == pytest.approx((0.1, 0.3))
    assert ahead.latency == pytest.approx((0.0, 0.1))


def test_a_front_that_is_passed_somewhere_is_not_beyond():
    assert not lead([Place(0, 0.7, 0.6), Place(1, 1.1, 0.1)], PLACES).beyond
    slow = lead([Place(0, 0.85, 0.0)], PLACES)
    assert (slow.beyond, slow.passes) == (False, None)
    assert slow.latency == pytest.approx((-0.05, 0.15))
    assert lead(PLACES, PLACES).beyond is False


def test_a_sweep_has_a_place_for_every_value_and_counts_its_requests():
    told = []
    sweep = Sweep(
        Setup(reference(1), requests=3, tokens=10),
        ours=Knob("adaptive", "price", (0.0, 0.5)),
        theirs=Knob("wanspec", "phi", (0.5,)),
        rtts=(10.0, 50.0),
        progress=told.append,
    )
    made = sweep.figure()
    assert sum(told) == sweep.requests == 3 * (1 + 2 * 3)
    assert [len(panel.curves[0].points) for panel in made.panels] == [2, 2]
    assert [row["rtt_ms"] for row in made.rows if "beyond" in row] == [10.0, 50.0]


def test_jobs_of_different_setups_share_a_pool():
    near, far = Setup(reference(1), rtt_ms=5.0, requests=22, tokens=6), Setup(reference(2), rtt_ms=80.0, requests=3)
    far = replace(far, tokens=5)
    jobs = [(near, Contender("wanspec")), (far, Contender("local")), (far, Contender("wanspec"))]
    found = run_jobs(jobs, processes=2)
    assert found == run_jobs(jobs)
    assert found[0] == run(near, [Contender("wanspec")])["wanspec"]
    assert [len(each) for each in found] == [22, 3, 3]


def test_the_grid_has_every_combination_and_parts_of_it():
    grid = Grid()
    assert len(grid.cells()) == 7 * 4 * 3 * 3 * 2
    few = grid.cells(9, seed=3)
    assert few == grid.cells(9, seed=3) != grid.cells(9, seed=4)
    assert len(set(few)) == 9
    assert set(few) <= set(grid.cells())
    part = grid.only(["rtt=0,45", "event=dies"])
    assert (part.rtt, part.event, part.rate) == ((0.0, 45.0), ("dies",), grid.rate)


@pytest.mark.parametrize("text", ["rtt", "rtt=x", "rate=0", "rate=1", "jitter=2", "event=fire", "speed=1", "rtt=-1"])
def test_a_part_of_the_grid_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="only"):
        Grid().only([text])


def test_robustness_compares_with_the_best_of_one_region_and_shows_the_worst_first():
    cells = [Cell(500.0, 0.95, 0.0, "over", "none"), Cell(0.0, 0.95, 0.5, "over", "dies")]
    told = []
    # This one waits for the worker whatever the round trip: it must be found out.
    trial = Trial(requests=4, tokens=40, policy=Contender("remote_sync"))
    found = trial.run(cells, progress=told.append)
    assert sum(told) == trial.requests_of(cells) == 4 * (2 + len(SINGLE_REGION))
    assert [each.cell for each in found] == cells
    assert found[0].ratio.low > LIMIT
    assert not found[0].met
    (fair,) = Trial(requests=4, tokens=40, policy=Contender("target_only")).run(cells[:1])
    assert fair.ratio.value > 1.0  # at 95% the best of one region drafts
    assert fair.best != "target_only"


def test_the_robustness_figure_draws_the_worst_cell_of_each_rate():
    def finding(rtt, jitter, high, event="none"):
        return Finding(Cell(rtt, 0.5, jitter, "over", event), "local_adaptive", Estimate(high - 0.02, 0.9, high), 0.5)

    made = figure([finding(30.0, 0.0, 1.1), finding(30.0, 0.5, 1.01), finding(0.0, 0.0, 1.0, "dies")], "made so.")
    assert [len(panel.curves) for panel in made.panels] == [1, 1]
    assert made.panels[0].curves[0].points[0].y.high == 1.1
    assert made.tables[0].rows[0][-3:] == ("1.080", "**1.100**", "50%")
    assert [row["met"] for row in made.rows] == [False, True, True]
    assert "in 1 of 3" in made.conditions
