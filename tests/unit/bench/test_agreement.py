"""What `python -m benchmarks.agreement` says of a policy."""

from __future__ import annotations

import pytest

from benchmarks.agreement import Totals, line

LOCAL = 0.8


def test_says_by_how_much_the_simulator_is_off():
    told = line(Totals(1000.0, 40, 100), Totals(1050.0, 30, 100), LOCAL)
    assert told["latency_off"] == 0.05
    assert told["passes_off"] == -0.25
    assert told["saved_off"] == pytest.approx(0.125)


def test_passes_that_neither_made_are_no_share_of_anything():
    told = line(Totals(1000.0, 0, 100), Totals(900.0, 0, 100), LOCAL)
    assert told["passes_off"] is None
    assert told["saved_off"] == 0.0
    assert told["latency_off"] == -0.1
