"""Two regions in virtual time: the production controller and worker under a seeded network and crash schedule."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf

from wanspec.core.config import ControllerConfig, Fingerprint, WorkerConfig
from wanspec.core.controller import Controller
from wanspec.core.events import (
    Action,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Draft,
    Drafted,
    Emit,
    Event,
    Expand,
    Expanded,
    ExpandFailed,
    Failed,
    Finished,
    LinkOpened,
    Received,
    Request,
    Send,
    Steered,
    Submitted,
    Tick,
    Verified,
    Verify,
    WorkerAction,
    WorkerEvent,
)
from wanspec.core.worker import Worker
from wanspec.simulation.alarm import Alarm
from wanspec.simulation.gpu import Costs, Job, ScarceGpu
from wanspec.simulation.models import Pair, draft, verify
from wanspec.simulation.network import Network
from wanspec.simulation.weather import Weather

__all__ = ["Costs", "Output", "Weather", "World"]


@dataclass(slots=True)
class Output:
    """What a client of the simulated endpoint saw."""

    tokens: list[int] = field(default_factory=list)
    finished: Finished | None = None
    finished_ms: float = 0.0


class World:
    """A controller, a worker, a network and two model functions, on one virtual clock."""

    def __init__(
        self,
        pair: Pair,
        *,
        costs: Costs | None = None,
        weather: Weather | None = None,
        controller: ControllerConfig | None = None,
        worker: WorkerConfig | None = None,
        seed: int = 0,
        log: Callable[[str], None] | None = None,
        gpu_batch: int = 0,
    ) -> None:
        """``gpu_batch``: most sequences in one pass of the scarce GPU; 0 gives every engine call a GPU of its own."""
        self.pair = pair
        self.costs = costs or Costs()
        self.weather = weather or Weather()
        self.now = 1_000.0
        self.outputs: dict[int, Output] = {}
        fingerprint = Fingerprint(b"t" * 32, pair.vocab_size, "hashed")
        self._worker_config = worker or WorkerConfig(fingerprint)
        self.controller = Controller(controller or ControllerConfig(fingerprint), instance=b"c" * 16, log=log)
        self.worker: Worker | None = Worker(self._worker_config, instance=b"w" * 16)
        self._random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.unfinished = 0
        self.gpu = ScarceGpu(self.at, lambda: self.now, gpu_batch)
        self.network = Network(self.weather, self.at, lambda: self.now, self._random)
        self._alarm = Alarm(self.at, lambda: self.now, self.controller.deadline, lambda: self._controller(Tick()))
        self._worker_alarm = Alarm(self.at, lambda: self.now, self._worker_deadline, lambda: self._worker(Tick()))
        self._incarnation = 0
        self._alarm.set()

    # What a test or a simulation does

    def submit(self, number: int, request: Request) -> None:
        """Hand in a request now.

        Raises:
            InvalidRequestError: as :meth:`Controller.handle`.
        """
        self.outputs[number] = Output()
        self.unfinished += 1
        try:
            self._controller(Submitted(number, request))
        except ValueError:
            del self.outputs[number]
            self.unfinished -= 1
            raise

    def tell(self, event: Event) -> None:
        """Give the controller an event of one's own making."""
        self._controller(event)

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Do something at a time."""
        heappush(self._queue, (time if time > self.now else self.now, next(self._order), do))

    def run(self, until: float = inf, *, limit: int = 1_000_000) -> None:
        """Run until all requests have finished or the time is reached.

        Raises:
            RuntimeError: nothing is due though a request has not finished, or ``limit`` steps were not enough.
        """
        endless = until == inf
        for _ in range(limit):
            if endless and not self.unfinished:
                return
            if self._queue and self._queue[0][0] > until:
                self.now = until
                return
            self.step()
        raise RuntimeError(f"not finished after {limit} steps at {self.now:.0f} ms")

    def finish_one(self) -> None:
        """Run until a request has finished.

        Raises:
            RuntimeError: nothing is due.
        """
        before = self.unfinished
        while self.unfinished == before:
            self.step()

    def step(self) -> None:
        """Let the next thing happen.

        Raises:
            RuntimeError: there is none.
        """
        if not self._queue:
            raise RuntimeError("nothing is due, but a request has not finished")
        self.now, _, do = heappop(self._queue)
        do()

    def crash_worker(self) -> None:
        """The worker's machine dies; connections break."""
        self.worker = None
        self._incarnation += 1
        self._break("worker crashed")

    def restart_worker(self) -> None:
        """A new worker process takes the old one's place."""
        self.worker = Worker(self._worker_config, instance=self._random.randbytes(16))

    def cut_link(self) -> None:
        """Connections break and new ones are refused until :meth:`mend_link`."""
        self.weather.cut = True
        self._break("connection reset")

    def mend_link(self) -> None:
        """New connections are accepted again."""
        self.weather.cut = False

    # The controller's body

    def _controller(self, event: Event) -> None:
        for action in self.controller.handle(event, self.now):
            self._act(action)
        self._alarm.set()

    def _act(self, action: Action) -> None:
        if isinstance(action, Verify):
            self._verify(action)
        elif isinstance(action, Draft):
            self._draft(action)
        elif isinstance(action, Send):
            self._send_up(action)
        elif isinstance(action, Connect):
            self._connect(action.link)
        elif isinstance(action, Disconnect):
            self.network.hang_up(lambda link: self._worker(Disconnected(link, "peer left")))
        elif isinstance(action, Emit):
            self.outputs[action.sequence].tokens += action.tokens
        elif isinstance(action, Finished):
            self.unfinished -= 1
            self.outputs[action.sequence].finished = action
            self.outputs[action.sequence].finished_ms = self.now

    def _verify(self, action: Verify) -> None:
        tokens, log_probs = verify(self.pair, action)
        fails, hangs = self._fault(self.weather.target_fails), self._fault(self.weather.target_hangs)

        def done(engine_ms: float) -> None:
            if fails and not hangs:
                self._controller(Failed(action.action, "target engine: simulated fault"))
            elif not hangs:
                self._controller(Verified(action.action, tokens, log_probs, engine_ms))

        cost = self.costs.verify_ms(len(action.drafts), action.length)
        self.gpu.run(Job(action.action[0], False, cost, done))

    def _draft(self, action: Draft) -> None:
        tokens, log_probs = draft(self.pair, action)
        fails, hangs = self._fault(self.weather.draft_fails), self._fault(self.weather.draft_hangs)

        def done(engine_ms: float) -> None:
            if fails and not hangs:
                self._controller(Failed(action.action, "draft engine: simulated fault"))
            elif not hangs:
                self._controller(Drafted(action.action, tokens, log_probs, engine_ms))

        cost = self.costs.local_ms(action.count, action.length + len(action.path))
        self.gpu.run(Job(action.action[0], True, cost, done))

    def _fault(self, probability: float) -> bool:
        return probability > 0.0 and self._random.random() < probability

    # The network

    def _connect(self, link: int) -> None:
        if self.weather.cut or self.worker is None or self.weather.worker_down:
            self.at(self.now + 1.0, lambda: self._controller(Disconnected(link, "connection refused")))
        else:
            self.network.connect(lambda: self._controller(Connected(link)))

    def _send_up(self, action: Send) -> None:
        link, data = self.network.connection, action.data
        event: WorkerEvent = LinkOpened(link, data) if action.opening else Steered(data)
        self.network.up(partial(self._worker, event), lossy=not action.opening)

    def _send_down(self, action: Send) -> None:
        self.network.down(action.link, partial(self._controller, Received(0, action.data)))

    def _break(self, reason: str) -> None:
        if self.network.connected:
            self.network.connected = False
            self._controller(Disconnected(0, reason))
            connection = self.network.connection
            self.at(self.now, lambda: self._worker(Disconnected(connection, reason)))

    # The worker's body

    def _worker(self, event: WorkerEvent) -> None:
        if self.worker is None:
            return
        for action in self.worker.handle(event, self.now):
            self._act_worker(action)
        self._worker_alarm.set()

    def _act_worker(self, action: WorkerAction) -> None:
        if isinstance(action, Send):
            self._send_down(action)
        elif isinstance(action, Expand):
            self._expand(action)
        elif isinstance(action, Disconnect):
            reason = action.reason
            self.network.close_down(action.link, lambda: self._break(reason))

    def _expand(self, action: Expand) -> None:
        leaves = context = 0
        for item in action.batch:
            leaves += len(item.leaves)
            context += item.length * len(item.leaves)
        cost = self.costs.expand_ms(leaves, context / leaves)
        done: WorkerEvent = Expanded(action.number, self.pair.expand(action.batch, action.top, cost))
        if self._random.random() < self.weather.worker_fails:
            done = ExpandFailed(action.number, "draft engine: simulated fault")
        of = self._incarnation
        self.at(self.now + cost, lambda: self._worker(done) if of == self._incarnation else None)

    def _worker_deadline(self) -> float:
        return inf if self.worker is None else self.worker.deadline()
