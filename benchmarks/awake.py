"""Whether idle CPUs sleep decides a good part of what a hand-over between threads costs, and a round has many."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LATENCY = Path("/dev/cpu_dma_latency")
"""Linux: while a process holds it open, no CPU sleeps so deeply that it takes longer to wake than the µs written."""


@contextmanager
def cpus_awake(wanted: bool = True) -> Iterator[bool]:
    """Keep idle CPUs awake meanwhile, as hosts of latency-bound services are set up.

    Yields:
        Whether they are: false where the system has no such switch, or does not let this user at it.
    """
    try:
        file = os.open(_LATENCY, os.O_WRONLY) if wanted else -1
    except OSError:
        file = -1
    try:
        if file >= 0:
            os.write(file, struct.pack("i", 0))
        yield file >= 0
    finally:
        if file >= 0:
            os.close(file)
