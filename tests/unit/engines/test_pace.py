from __future__ import annotations

import statistics
import time

import pytest

from tests.unit.timing import in_bounds
from wanspec.engines.pace import Pace
from wanspec.errors import ConfigError


def lateness_ms(pace: Pace) -> float:
    """The median of some steps; none may be short."""
    late = []
    for _ in range(11):
        started = time.monotonic_ns()
        ended = pace.wait(started, tokens=4)
        assert ended <= time.monotonic_ns()
        late.append((ended - started) / 1e6 - 4.0)
    assert min(late) >= 0
    return statistics.median(late)


def test_steps_last_as_stated_to_a_fifth_of_a_millisecond() -> None:
    late: list[float] = []
    while not in_bounds(late, 0.0, 0.2):
        late.append(lateness_ms(Pace(2.0, per_token_ms=0.5)))


def test_longer_steps_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"slept {seconds} s"))
    started = time.monotonic_ns() - 50_000_000
    assert Pace(10.0).wait(started) >= started + 50_000_000


def test_time_scale_stretches_all() -> None:
    assert Pace.scaled(10.0, 3.0, per_token_ms=1.0) == Pace(30.0, 3.0)


@pytest.mark.parametrize(
    ("pace", "scale", "field"), [(-1.0, 1.0, "pace_ms"), (1e9, 1.0, "pace_ms"), (1.0, 0.0, "time_scale")]
)
def test_impossible_settings_are_named(pace: float, scale: float, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Pace.scaled(pace, scale)
