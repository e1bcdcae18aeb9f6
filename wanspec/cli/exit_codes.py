"""The exit codes of every command: the one place that says what they are and what they mean."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from enum import IntEnum


class ExitCode(IntEnum):
    """What a process of ``wanspec`` ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BUSY = 75  # EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


DONE = "done"
FAILED = "it failed; the message says what to do"


def meanings(done: str = DONE, failed: str = FAILED) -> Iterator[tuple[ExitCode, str]]:
    """Every code and its meaning.

    Args:
        done: of 0 for one command.
        failed: of 1 for one command.
    """
    yield ExitCode.DONE, done
    yield ExitCode.FAILED, failed
    yield ExitCode.USAGE, "the command line is wrong"
    yield ExitCode.BUSY, "the endpoint is busy: try again a moment later"
    yield ExitCode.INTERRUPTED, "Ctrl-C: what was started is stopped and removed"
    yield ExitCode.TERMINATED, "SIGTERM: the same"
