"""Bounds of durations that a busy machine cannot break: too short is wrong, too long may be load."""

from __future__ import annotations

from collections.abc import Sequence

MOST_TRIES = 8


def in_bounds(took: Sequence[float], least: float, below: float) -> bool:
    """Whether one of the durations measured so far is below a bound: ``while not in_bounds(...): took.append(...)``.

    Each must be ``least`` or more. After ``MOST_TRIES`` of which none was quick enough, load is no excuse any more.
    """
    assert all(each >= least for each in took), f"{list(took)}: each lasts {least:g} at least"
    if took and min(took) < below:
        return True
    assert len(took) < MOST_TRIES, f"{list(took)}: none is below {below:g}"
    return False
