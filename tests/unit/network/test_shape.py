from __future__ import annotations

import pytest

from wanspec.errors import ConfigError
from wanspec.network.shape import LinkShape, check_script


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delay_ms": -1}, "delay_ms: -1 given; it must be 0 or more"),
        ({"jitter_ms": 11}, "jitter_ms: 11 given; it must be between 0 and delay_ms"),
        ({"rate_mbps": 0}, "rate_mbps: 0 given; it must be above 0, or None"),
        ({"loss": 0.6}, "loss: 0.6 given"),
        ({"state": "up"}, "state: 'up' given; it must be on, off or cut"),
        ({"mss": 0}, "mss: 0 given"),
        ({"buffer_bytes": 0}, "buffer_bytes: 0 given"),
        ({"delay": 5}, "delay: is not a property of a link; these are: delay_ms, jitter_ms, "),
        ({"delay_ms": "5"}, "delay_ms: a value has the wrong type"),
    ],
)
def test_limits(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LinkShape(delay_ms=10).changed(changes)


def test_times() -> None:
    assert LinkShape(delay_ms=15).rtt_ms == 30
    assert LinkShape(delay_ms=15).rto_ms == 200
    assert LinkShape(delay_ms=75).rto_ms == 300


def test_script_is_ordered_and_checked_as_it_will_run() -> None:
    script = [(20, {"delay_ms": 0, "jitter_ms": 0}), (10.0, {"delay_ms": 5, "jitter_ms": 5})]
    assert [at for at, _ in check_script(LinkShape(), script)] == [10.0, 20.0]
    with pytest.raises(ConfigError, match="jitter_ms"):
        check_script(LinkShape(), [(10, {"delay_ms": 5}), (20, {"jitter_ms": 6})])
    with pytest.raises(ConfigError, match="script: -1"):
        check_script(LinkShape(), [(-1, {})])
