"""The rule of "lossless" in floating point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.exactness import MARGIN, Divergence, Exactness, compare, first_difference, margin

REFERENCE = [5, 6, 7, 8, 9]


def never(*_):
    raise AssertionError("not needed")


def test_equal_outputs_need_neither_margins_nor_requests():
    result = compare(REFERENCE, REFERENCE, never, never)
    assert result.identical
    assert result.holds
    assert result.tokens == 5


def test_a_near_tie_is_excused_and_the_comparison_resumes_behind_it():
    resumed = []

    def resume(start):
        resumed.append(start)
        return REFERENCE[start:]

    result = compare(REFERENCE, [5, 1, 2, 3, 4], lambda position, token: MARGIN / 2, resume)
    assert result == Exactness(5, (Divergence(1, 6, 1, MARGIN / 2),))
    assert resumed == [2]
    assert result.holds
    assert not result.identical


def test_a_clear_preference_is_not_excused_and_ends_the_comparison():
    result = compare(REFERENCE, [5, 6, 1], lambda *_: MARGIN, never)
    assert [each.position for each in result.divergences] == [2]
    assert not result.holds


def test_a_second_near_tie_in_a_short_run_is_too_many():
    outputs = {2: [1, 8, 9], 3: [8, 9]}
    result = compare(REFERENCE, [5, 1, 7, 8, 9], lambda *_: 0.0, outputs.__getitem__)
    assert [each.position for each in result.divergences] == [1, 2]
    assert not result.holds


def test_an_output_that_ends_early_or_late_is_not_excused():
    for actual in ([5, 6, 7], [*REFERENCE, 10], []):
        result = compare(REFERENCE, actual, never, never)
        assert not result.holds
        assert result.divergences[0].position == min(len(actual), 5)


def test_one_near_tie_in_2000_tokens_adds_up_over_runs():
    near = Divergence(3, 1, 2, 1e-5)
    one = Exactness(1_000, (near,))
    assert one.holds
    assert not (one + one).holds
    assert (Exactness(3_000, (near,)) + one).holds


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_first_difference_is_where_the_outputs_part(left, right):
    place = first_difference(left, right)
    if place is None:
        assert left == right
    else:
        assert left[:place] == right[:place]
        assert left[place : place + 1] != right[place : place + 1]


@pytest.mark.parametrize(("token", "wanted"), [(1, 0.0), (0, 0.5), (2, 3.0)])
def test_margin_is_measured_from_the_best_token(token, wanted):
    logits = np.array([1.5, 2.0, -1.0])
    assert margin(logits, token) == pytest.approx(wanted)
    log_probs = logits - np.log(np.exp(logits).sum())
    assert margin(log_probs, token) == pytest.approx(wanted)
