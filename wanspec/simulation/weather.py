"""The network between two simulated regions: delay, jitter, measured traces, spikes, and everything that goes wrong."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from wanspec.errors import ConfigError


class DelayPath(Protocol):
    """A round-trip time that changes over time."""

    def rtt_ms(self, now: float) -> float:
        """Round-trip time at ``now``, both in ms."""
        ...


@dataclass(frozen=True, slots=True)
class Spikes:
    """A round trip that rises for a while, again and again.

    Attributes:
        base_ms, spike_ms: round-trip time outside and inside a spike.
        every_ms, length_ms: from the beginning of one spike to that of the next, and to its own end.
    """

    base_ms: float
    spike_ms: float
    every_ms: float
    length_ms: float

    def rtt_ms(self, now: float) -> float:
        """Round-trip time at ``now``, both in ms."""
        return self.spike_ms if now % self.every_ms < self.length_ms else self.base_ms


@dataclass(frozen=True, slots=True)
class RttTrace:
    """Measured round trips, each in force from its time to the next one's; then all over again.

    Attributes:
        times_ms: rising, the first at 0.
        rtts_ms: one a time.
    """

    times_ms: tuple[float, ...]
    rtts_ms: tuple[float, ...]

    def rtt_ms(self, now: float) -> float:
        """Round-trip time at ``now``, both in ms."""
        step = self.times_ms[-1] - self.times_ms[-2] if len(self.times_ms) > 1 else 1.0
        place = now % (self.times_ms[-1] + step)
        return self.rtts_ms[bisect_right(self.times_ms, place) - 1]

    @classmethod
    def read(cls, lines: Iterable[str]) -> RttTrace:
        """Read lines of ``time_ms,rtt_ms`` or, 1 s apart, of ``rtt_ms``; ``#`` begins a comment, as may a header.

        Raises:
            ConfigError: a line is neither, the times do not rise, or there is no line.
        """
        rows: list[tuple[float, float]] = []
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            try:
                *time, rtt = (float(part) for part in text.split(","))
            except ValueError:
                if rows or number > 1:
                    raise ConfigError("rtt_trace", f"line {number}: {text!r} is not time_ms,rtt_ms") from None
                continue
            rows.append((time[0] if time else 1_000.0 * len(rows), rtt))
        if not rows or any(not 0.0 <= rtt < float("inf") for _, rtt in rows):
            raise ConfigError("rtt_trace", "holds no round-trip time, or one that is none")
        if any(a[0] >= b[0] for a, b in pairwise(rows)):
            raise ConfigError("rtt_trace", "its times do not rise")
        first = rows[0][0]
        return cls(tuple(time - first for time, _ in rows), tuple(rtt for _, rtt in rows))


@dataclass(slots=True)
class Weather:
    """The state of network and engines; may change while the world runs. Times in ms, probabilities a frame or call.

    Attributes:
        delay_ms: one way.
        jitter_ms: most that is added to it, uniformly.
        path: if set, half its round trip stands in for ``delay_ms``.
        loss, duplicate: of frames.
        reorder: frames may overtake each other.
        cut: connections are refused.
        silent: frames vanish.
        worker_down: the worker refuses connections.
        target_fails, draft_fails, worker_fails: engine calls that end in an error.
        target_hangs, draft_hangs: engine calls that never end.
    """

    delay_ms: float = 15.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    cut: bool = False
    silent: bool = False
    worker_down: bool = False
    target_fails: float = 0.0
    draft_fails: float = 0.0
    worker_fails: float = 0.0
    target_hangs: float = 0.0
    draft_hangs: float = 0.0
    path: DelayPath | None = field(default=None)

    def one_way_ms(self, now: float) -> float:
        """Delay of one way without jitter."""
        return self.delay_ms if self.path is None else self.path.rtt_ms(now) / 2
