"""Waiting for other threads, with a limit that only a failing test reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 60.0
"""Long enough for any machine."""


def until(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)
