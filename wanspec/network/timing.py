"""Timers for asyncio that are as exact as the kernel's.

asyncio waits with epoll, whose timeout is rounded up to whole milliseconds: too coarse for an emulated path of a few
ms. A Linux timerfd is a file descriptor that becomes readable at a nanosecond time, and works in any event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import sys
from collections.abc import Callable
from time import CLOCK_MONOTONIC

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_ABSOLUTE = 1
_NANOSECONDS = 1_000_000_000


class PreciseSchedule:
    """Calls functions at times of ``loop.time()``, late by some 0.1 ms. Without timerfd (not Linux) by up to 1 ms."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._armed: float | None = None
        self._closed = False
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        if sys.platform == "linux":
            self._descriptor = self._libc.timerfd_create(CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._descriptor >= 0:
            loop.add_reader(self._descriptor, self._fire)

    def call_at(self, when: float, function: Callable[[], None]) -> None:
        """Call ``function`` at ``when``; at once, but not from within this call, if that is past."""
        heapq.heappush(self._heap, (when, next(self._order), function))
        self._arm()

    def close(self) -> None:
        """Forget what is still to be called."""
        self._closed = True
        self._heap.clear()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _arm(self) -> None:
        if not self._heap or self._closed:
            return
        when = self._heap[0][0]
        if self._armed is not None and self._armed <= when:
            return
        self._armed = when
        if self._descriptor < 0:
            self._loop.call_at(when, self._fire)
            return
        nanoseconds = max(1, int(when * _NANOSECONDS))
        # struct itimerspec: the interval (none), then the value, each in seconds and nanoseconds.
        value = (ctypes.c_long * 4)(0, 0, nanoseconds // _NANOSECONDS, nanoseconds % _NANOSECONDS)
        self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, value, None)

    def _fire(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(BlockingIOError):
                os.read(self._descriptor, 8)
        self._armed = None
        now = self._loop.time()
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        for function in due:
            function()
        self._arm()
