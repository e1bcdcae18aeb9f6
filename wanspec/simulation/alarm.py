"""Timers in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from wanspec.simulation.network import At


class Alarm:
    """Calls something when its deadline is reached. One that is no longer the next does nothing when it fires."""

    def __init__(
        self, at: At, clock: Callable[[], float], deadline: Callable[[], float], tick: Callable[[], None]
    ) -> None:
        """``deadline``: when ``tick`` is to be called, in ms, as things stand; infinity for never."""
        self._at = at
        self._clock = clock
        self._deadline = deadline
        self._tick = tick
        self._due = inf

    def set(self) -> None:
        """The deadline may have changed."""
        due = self._deadline()
        if due < self._due:
            self._due = due
            self._at(due, lambda: self._fire(due))

    def _fire(self, due: float) -> None:
        if due != self._due:
            return
        self._due = inf
        if self._deadline() <= self._clock():
            self._tick()
        else:
            self.set()
