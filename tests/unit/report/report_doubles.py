"""Event logs with known truth: two regions in virtual time, whose worker's passes are kept as they really were."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.sim_doubles import FINGERPRINT
from wanspec.core.config import ControllerConfig
from wanspec.core.events import Request
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Costs, Weather, World

RTT_MS = 30.0


@dataclass
class Played:
    """What came of it: the log, and when the worker's passes began and ended."""

    lines: list[str] = field(default_factory=list)
    passes: list[tuple[float, float]] = field(default_factory=list)
    world: World | None = None


class Watched(World):
    """Keeps when passes began, and how long they took."""

    played: Played

    def _expand(self, action):
        began, at = self.now, self.at

        def noting(time, do):
            self.played.passes.append((began, time))
            at(time, do)

        self.at = noting
        super()._expand(action)
        del self.at


def play(policies=("adaptive",), tokens=40, rtt_ms=RTT_MS, jitter_ms=0.0, deeds=(), requests=1):
    """Run ``requests`` requests of each policy, one after another; deeds are (ms after the start, what)."""
    played = Played()
    world = Watched(
        HashedPair(),
        weather=Weather(delay_ms=rtt_ms / 2, jitter_ms=jitter_ms),
        controller=ControllerConfig(FINGERPRINT),
        costs=Costs(),
        log=played.lines.append,
    )
    world.played = played
    world.run(until=2_000.0)
    for time, deed in deeds:
        world.at(world.now + time, getattr(world, deed))
    for number, policy in enumerate([policy for policy in policies for _ in range(requests)]):
        world.submit(number, Request((5, 6, 7 + number), tokens, policy=policy))
        world.run()
    played.world = world
    return played
