"""The connection between two simulated regions: frames take their time, and get lost, doubled or cut off."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from wanspec.simulation.weather import Weather

At: TypeAlias = Callable[[float, Callable[[], None]], None]
"""Have something done at a time."""


class Network:
    """At most one connection at a time; what was under way on an earlier one never arrives.

    Attributes:
        connection: number of the present connection, or of the last.
        connected: whether it stands, as the controller's side sees it.
    """

    def __init__(self, weather: Weather, at: At, clock: Callable[[], float], chance: random.Random) -> None:
        self.connection = 0
        self.connected = False
        self._weather = weather
        self._at = at
        self._clock = clock
        self._chance = chance
        self._last_due = {"up": 0.0, "down": 0.0}

    def connect(self, opened: Callable[[], None]) -> None:
        """Begin a connection; ``opened`` is called a round trip later, if it still stands."""
        self.connection += 1
        self.connected = True
        self._last_due = {"up": 0.0, "down": 0.0}
        connection, now = self.connection, self._clock()

        def arrive() -> None:
            if connection == self.connection and self.connected:
                opened()

        self._at(now + 2 * self._weather.one_way_ms(now), arrive)

    def up(self, arrive: Callable[[], None], *, lossy: bool) -> None:
        """Carry a frame to the worker; it still arrives where the controller has hung up since."""
        connection = self.connection
        self._carry("up", lambda: arrive() if connection == self.connection else None, lossy=lossy)

    def down(self, link: int, arrive: Callable[[], None]) -> None:
        """Carry a frame that the worker has sent on a connection."""
        connection = self.connection
        if link == connection:
            self._carry(
                "down", lambda: arrive() if connection == self.connection and self.connected else None, lossy=True
            )

    def hang_up(self, arrive: Callable[[int], None]) -> None:
        """The controller leaves; the worker is told of the connection's number in the time a frame takes."""
        if self.connected:
            self.connected = False
            connection, now = self.connection, self._clock()
            self._at(now + self._weather.one_way_ms(now), lambda: arrive(connection))

    def close_down(self, link: int, arrive: Callable[[], None]) -> None:
        """The worker drops a connection; the controller sees it after the frames that are under way."""
        connection, now = self.connection, self._clock()
        if link == connection:
            due = max(now + self._weather.one_way_ms(now), self._last_due["down"])
            self._at(due, lambda: arrive() if connection == self.connection else None)

    def _carry(self, way: str, arrive: Callable[[], None], *, lossy: bool) -> None:
        weather, chance = self._weather, self._chance.random
        if not self.connected or weather.silent or (lossy and chance() < weather.loss):
            return
        now = self._clock()
        for _ in range(2 if chance() < weather.duplicate else 1):
            due = now + weather.one_way_ms(now) + chance() * weather.jitter_ms
            if not weather.reorder:
                due = max(due, self._last_due[way])
                self._last_due[way] = due
            self._at(due, arrive)
