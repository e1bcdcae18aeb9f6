from __future__ import annotations

import statistics
import time

import pytest

from wanspec.engines.pace import Pace
from wanspec.errors import ConfigError


def test_steps_last_as_stated_to_a_fifth_of_a_millisecond() -> None:
    pace = Pace(2.0, per_token_ms=0.5)
    errors = []
    for _ in range(21):
        started = time.monotonic_ns()
        ended = pace.wait(started, tokens=4)
        assert ended <= time.monotonic_ns()
        errors.append((ended - started) / 1e6 - 4.0)
    assert min(errors) >= 0
    assert statistics.median(errors) < 0.2


def test_longer_steps_are_left_alone() -> None:
    started = time.monotonic_ns() - 50_000_000
    before = time.monotonic_ns()
    assert Pace(10.0).wait(started) - before < 5_000_000


def test_time_scale_stretches_all() -> None:
    assert Pace.scaled(10.0, 3.0, per_token_ms=1.0) == Pace(30.0, 3.0)


@pytest.mark.parametrize(
    ("pace", "scale", "field"), [(-1.0, 1.0, "pace_ms"), (1e9, 1.0, "pace_ms"), (1.0, 0.0, "time_scale")]
)
def test_impossible_settings_are_named(pace: float, scale: float, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Pace.scaled(pace, scale)
