"""Chi-square against known values."""

from __future__ import annotations

import numpy as np
import pytest

from wanspec.conformance.statistics import chi_square, chi_square_tail


@pytest.mark.parametrize(
    ("statistic", "freedom", "tail"),
    [(3.841459, 1, 0.05), (5.991465, 2, 0.05), (14.067140, 7, 0.05), (18.475307, 7, 0.01), (37.69730, 15, 0.001)],
)
def test_tail_as_in_tables(statistic: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(statistic, freedom) == pytest.approx(tail, rel=1e-4)


def test_tail_of_nothing_is_one() -> None:
    assert chi_square_tail(0.0, 3) == 1.0


def test_small_cells_are_put_together() -> None:
    statistic, freedom = chi_square([50, 40, 3, 7], [50.0, 40.0, 4.0, 6.0])
    # The cell of 4 joins the least of the others.
    assert (statistic, freedom) == (0.0, 2)
    assert chi_square([50, 44, 3, 3], [50.0, 44.0, 3.0, 3.0]) == (0.0, 2)


def test_one_cell_says_nothing() -> None:
    with pytest.raises(ValueError, match="at least two cells"):
        chi_square([100, 1], [99.0, 1.0])


def test_p_values_of_right_draws_are_spread_evenly() -> None:
    rng = np.random.default_rng(1)
    law = np.array([0.4, 0.3, 0.2, 0.1])
    tails = [chi_square_tail(*chi_square(rng.multinomial(500, law).tolist(), (500 * law).tolist())) for _ in range(400)]
    assert 0.4 < np.mean(tails) < 0.6
    assert 0.01 < np.mean(np.array(tails) < 0.05) < 0.1


def test_a_wrong_law_is_found() -> None:
    rng = np.random.default_rng(2)
    drawn = rng.multinomial(2000, [0.6, 0.38, 0.02]).tolist()
    assert chi_square_tail(*chi_square(drawn, [1200.0, 790.0, 10.0])) < 1e-5
