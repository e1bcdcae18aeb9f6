from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec.network.delay_line import DelayLine, Mark, Path
from wanspec.network.shape import LinkShape

shapes = st.builds(
    lambda delay, share, rate, loss, mss: LinkShape(delay, delay * share, rate, loss, mss=mss),
    st.floats(0, 200),
    st.floats(0, 1),
    st.none() | st.floats(0.1, 1000),
    st.sampled_from([0.0, 0.01, 0.5]),
    st.integers(1, 3000),
)
arrivals = st.lists(st.tuples(st.floats(0, 0.1), st.binary(min_size=1, max_size=5000)), max_size=20)


def drain(line: DelayLine) -> list[tuple[float, bytes | Mark]]:
    out = []
    while line.next_due is not None:
        due = line.next_due
        out += [(due, item) for item in line.pop(due)]
    return out


@given(shapes, arrivals, st.integers())
def test_order_is_kept_nothing_is_lost_or_early(shape: LinkShape, sent: list[tuple[float, bytes]], seed: int) -> None:
    line = DelayLine(Path(seed))
    now, pushed = 0.0, 0
    for gap, data in sent:
        now += gap
        line.push(now, data, shape)
        pushed += len(data)
        assert line.held_bytes == pushed
    line.push_mark(now, Mark.EOF, shape)
    out = drain(line)
    assert out[-1][1] is Mark.EOF
    assert b"".join(item for _, item in out[:-1]) == b"".join(data for _, data in sent)
    assert [due for due, _ in out] == sorted(due for due, _ in out)
    assert line.held_bytes == 0
    if sent:
        earliest = sent[0][0] + (shape.delay_ms - shape.jitter_ms) / 1000
        assert out[0][0] >= earliest - 1e-9


def test_delay_is_pipelined() -> None:
    line = DelayLine(Path(0))
    shape = LinkShape(delay_ms=100)
    for number in range(100):
        line.push(number * 0.001, b"x", shape)
    dues = [due for due, _ in drain(line)]
    assert dues == pytest.approx([0.1 + number * 0.001 for number in range(100)])


def test_rate_is_serialisation_time_shared_by_connections() -> None:
    path, shape = Path(0), LinkShape(delay_ms=10, rate_mbps=8)  # 1 byte a microsecond
    first, second = DelayLine(path), DelayLine(path)
    first.push(0.0, b"x" * 1000, shape)
    second.push(0.0, b"y" * 1000, shape)
    assert first.next_due == pytest.approx(0.011)
    assert second.next_due == pytest.approx(0.012)
    drain(second)
    second.push(1.0, b"y" * 1000, shape)  # idle in between: no credit is saved up, none is owed
    assert second.next_due == pytest.approx(1.011)


def test_large_write_comes_out_bit_by_bit() -> None:
    line, shape = DelayLine(Path(0)), LinkShape(rate_mbps=80)
    line.push(0.0, b"x" * 100_000, shape)
    out = drain(line)
    assert len(out) == 10
    assert out[0][0] == pytest.approx(0.001)
    assert out[-1][0] == pytest.approx(0.010)


class Scripted(Path):
    """Loses the packets whose numbers are given, each as often as given."""

    def __init__(self, losses: dict[int, int]) -> None:
        super().__init__(0)
        self._losses, self._packet = losses, -1

    def retransmissions(self, shape: LinkShape) -> int:
        self._packet += 1
        return self._losses.get(self._packet, 0)


@pytest.mark.parametrize(
    ("losses", "first_ms", "last_ms"),
    [
        ({}, 20, 20),
        ({0: 1}, 20 + 40, 20 + 40),  # three more follow: found after one RTT, and all wait for it
        ({3: 1}, 20, 20 + 200),  # the last: the timeout
        ({0: 2}, 20 + 40 + 200, 20 + 40 + 200),  # its retransmission is lost, too
        ({3: 3}, 20, 20 + 200 + 400 + 800),  # the timeout doubles
    ],
)
def test_loss_is_a_stall(losses: dict[int, int], first_ms: float, last_ms: float) -> None:
    line, shape = DelayLine(Scripted(losses)), LinkShape(delay_ms=20, loss=0.1, mss=100)
    line.push(0.0, b"x" * 400, shape)
    out = drain(line)
    assert out[0][0] * 1000 == pytest.approx(first_ms)
    assert out[-1][0] * 1000 == pytest.approx(last_ms)
    assert line.lost_packets == sum(losses.values())


def test_later_packets_of_the_connection_tell_of_a_loss() -> None:
    shape = LinkShape(delay_ms=20, loss=0.1, mss=100)
    line = DelayLine(Scripted({0: 1}))
    dues = []
    for place in range(5):
        line.push(place * 0.010, b"x", shape)
        dues.append(round((line.next_due or 0.0) * 1000))
    # The third that follows is sent at 30 ms and there at 50; the lost one comes a round trip later.
    assert dues == [220, 220, 220, 90, 90]
    assert [round(due * 1000) for due, _ in drain(line)] == [90] * 5
    rare = DelayLine(Scripted({0: 1}))
    for place in range(4):
        rare.push(place * 0.060, b"x", shape)
    assert rare.next_due == pytest.approx(0.22)  # the timeout came sooner


def test_loss_rate_is_as_stated() -> None:
    line, shape = DelayLine(Path(1)), LinkShape(loss=0.1, mss=10)
    line.push(0.0, b"x" * 100_000, shape)
    assert 1000 < line.lost_packets < 1250  # 10,000 packets, 0.111 losses each


def test_jitter_repeats_with_the_seed_and_fills_its_range() -> None:
    def dues(seed: int) -> list[float]:
        path, shape = Path(seed), LinkShape(delay_ms=50, jitter_ms=10)
        lines = [DelayLine(path) for _ in range(500)]  # one chunk each, so that order does not hide it
        for line in lines:
            line.push(0.0, b"x", shape)
        return [(line.next_due or 0) * 1000 for line in lines]

    assert dues(1) == dues(1) != dues(2)
    assert 40 <= min(dues(1)) < 41
    assert 59 < max(dues(1)) <= 60


def test_time_scale_multiplies_delay_and_serialisation() -> None:
    line = DelayLine(Path(0, time_scale=3.0))
    line.push(0.0, b"x" * 1000, LinkShape(delay_ms=10, rate_mbps=8))
    assert line.next_due == pytest.approx(0.033)


def test_postponed_items_keep_their_order_and_later_times() -> None:
    line, shape = DelayLine(Path(0)), LinkShape(delay_ms=10)
    line.push(0.0, b"a", shape)
    line.push(5.0, b"b", shape)
    line.postpone(1.0)
    assert drain(line) == [(1.0, b"a"), (pytest.approx(5.01), b"b")]
    line.push(5.1, b"c", shape)
    line.postpone(9.0)
    line.push(6.0, b"d", shape)
    assert drain(line) == [(9.0, b"c"), (9.0, b"d")]
