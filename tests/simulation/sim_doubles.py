"""Fault schedules: what happens to a simulated pair of regions, and when. One value (or seed) is one run."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace

from hypothesis import strategies as st

from wanspec.core.config import ControllerConfig, Fingerprint, WorkerConfig
from wanspec.core.events import Cancelled, Request
from wanspec.simulation.models import HashedPair
from wanspec.simulation.world import Costs, Weather, World

POLICIES = ("target_only", "local", "remote_sync", "wanspec")
ENGINE_MS = 400.0
FINGERPRINT = Fingerprint(b"t" * 32, 1_000, "hashed")
DEEDS = ("cut", "mend", "crash", "restart", "weather", "cancel")


@dataclass(frozen=True)
class Schedule:
    """Requests by the time of their submission, deeds by the time they are done."""

    seed: int
    weather: Weather
    requests: tuple[tuple[float, Request], ...]
    deeds: tuple[tuple[float, str, object], ...] = ()
    pair: HashedPair = field(default_factory=HashedPair)

    @property
    def longest_way_ms(self):
        """Longest time that a frame can be under way."""
        weathers = [self.weather] + [w for _, deed, w in self.deeds if deed == "weather"]
        return max(w.delay_ms for w in weathers) + max(w.jitter_ms for w in weathers)


def weathers(draw):
    """Weather of any kind; ``draw(low, high)`` gives a number."""

    def often_none(high):
        return max(0.0, draw(-high, high))

    return Weather(
        delay_ms=draw(0, 60),
        jitter_ms=often_none(40),
        loss=often_none(0.2),
        duplicate=often_none(0.3),
        reorder=draw(0, 1) < 0.3,
        silent=draw(0, 1) < 0.1,
        target_fails=often_none(0.03),
        draft_fails=often_none(0.02),
        worker_fails=often_none(0.1),
        target_hangs=often_none(0.01),
        draft_hangs=often_none(0.01),
    )


def schedule(draw):
    """Build a schedule from numbers that ``draw`` gives."""

    def whole(low, high):
        return int(draw(low, high + 0.999))

    requests = []
    for _ in range(whole(1, 16)):
        policy = POLICIES[whole(0, 3)] if draw(0, 1) < 0.6 else "wanspec"
        parameters: dict[str, float | int | str] = {} if policy == "target_only" else {"k": whole(1, 5)}
        if policy == "wanspec":
            parameters |= {
                "rule": ("listing", "text")[whole(0, 1)],
                "branching": whole(1, 3),
                "width": whole(1, 6),
                "max_depth": whole(1, 24),
                "phi": draw(0, 2),
            }
        prompt = tuple(whole(1, 999) for _ in range(whole(1, 4)))
        ends = frozenset({0}) if draw(0, 1) < 0.5 else frozenset[int]()
        request = Request(prompt, whole(1, 40), ends, policy, parameters, record=draw(0, 1) < 0.3)
        requests.append((1_000.0 + draw(0, 1_500), request))
    deeds: list[tuple[float, str, object]] = []
    for _ in range(whole(0, 8)):
        deed = DEEDS[whole(0, len(DEEDS) - 1)]
        what = weathers(draw) if deed == "weather" else whole(0, len(requests) - 1)
        deeds.append((1_000.0 + draw(0, 2_500), deed, what))
    pair = HashedPair(match=draw(0.3, 1.0), end_share=0.01, seed=whole(0, 99))
    for _ in range(whole(0, 6)):  # later turns: what was said so far, and more
        time, turn = requests[whole(0, len(requests) - 1)]
        said = pair.generate(turn.prompt, turn.max_tokens)[: whole(0, turn.max_tokens)]
        prompt = (*turn.prompt, *said, *(whole(1, 999) for _ in range(whole(1, 12))))
        later = replace(turn, prompt=prompt, conversation="talk" if draw(0, 1) < 0.5 else "")
        requests.append((time + draw(0, 1_500), later))
    return Schedule(whole(0, 1 << 16), weathers(draw), tuple(requests), tuple(deeds), pair)


def from_seed(seed):
    """One integer reproduces a run."""
    return schedule(random.Random(seed).uniform)


@st.composite
def schedules(draw):
    """As :func:`from_seed`, in a form that hypothesis can make smaller."""
    return schedule(lambda low, high: draw(st.floats(low, high, allow_nan=False)))


class Play:
    """A schedule carried out to the end of all its requests."""

    def __init__(self, planned: Schedule, log=None, world: type[World] = World, **config):
        self.planned = planned
        self.world = world(
            planned.pair,
            costs=Costs(),
            weather=replace(planned.weather),
            controller=ControllerConfig(FINGERPRINT, engine_ms=ENGINE_MS, least_reuse=2, piece_tokens=12, **config),
            worker=WorkerConfig(
                FINGERPRINT, max_leaves=24, max_nodes=64, kept_sequences=4, kept_tokens=120, prefill_tokens=8
            ),
            seed=planned.seed,
            log=log,
        )
        self.sequences = {}
        self.over = False
        for number, (time, request) in enumerate(planned.requests):
            self.world.at(time, lambda n=number, r=request: self._submit(n, r))
        for time, deed, what in planned.deeds:
            self.world.at(time, lambda d=deed, w=what: self._do(d, w))

    def run(self):
        self.world.run(until=max(time for time, _ in self.planned.requests))
        self.world.run()
        return self

    def settle(self):
        """Mend everything and let the worker's idle time pass."""
        world, self.over = self.world, True
        for setting in fields(Weather):
            setattr(world.weather, setting.name, getattr(Weather(), setting.name))
        if world.worker is None:
            world.restart_worker()
        world.run(until=world.now + 125_000.0)
        return self

    def _submit(self, number, request):
        self.world.submit(number, request)
        self.sequences[number] = self.world.controller.sequences[number]

    def _do(self, deed, what):
        world = self.world
        if self.over:
            return
        if deed == "weather":
            changed = replace(what, cut=world.weather.cut)
            for setting in fields(Weather):
                setattr(world.weather, setting.name, getattr(changed, setting.name))
        elif deed == "cancel":
            world.tell(Cancelled(what))
        elif deed == "restart":
            if world.worker is None:
                world.restart_worker()
        else:
            {"cut": world.cut_link, "mend": world.mend_link, "crash": world.crash_worker}[deed]()


class Corrupting(World):
    """A network that turns one bit of every fifth frame, as no TCP would, and a hostile peer might."""

    damaged = 0

    def _send_up(self, action):
        super()._send_up(self._damaged(action))

    def _send_down(self, action):
        super()._send_down(self._damaged(action))

    def _damaged(self, action):
        if self._random.random() > 0.2:
            return action
        self.damaged += 1
        data = bytearray(action.data)
        bit = self._random.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        return action._replace(data=bytes(data))
