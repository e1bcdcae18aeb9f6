"""A learning rate that follows the clock: training is given minutes, not steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator


def cosine_until(minutes: float, warmup: float = 0.02) -> Iterator[float]:
    """Yield the factor of the learning rate for each step, from a short warm-up down to 0 when ``minutes`` are over."""
    started = time.monotonic()
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        yield min(1.0, (done + 1e-3) / warmup) * 0.5 * (1 + math.cos(math.pi * done))
