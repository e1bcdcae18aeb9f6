"""Two regions in virtual time: the production controller and worker under a seeded network and crash schedule."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

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
from wanspec.simulation.gpu import Costs, Job, ScarceGpu
from wanspec.simulation.models import Pair
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
        self._connection = 0
        self._connected = False
        self._last_due = {"up": 0.0, "down": 0.0}
        self._controller_tick = float("inf")
        self._worker_tick = float("inf")
        self._incarnation = 0
        self._arm()

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
        heapq.heappush(self._queue, (max(time, self.now), next(self._order), do))

    def run(self, until: float = float("inf"), *, limit: int = 1_000_000) -> None:
        """Run until all requests have finished or the time is reached.

        Raises:
            RuntimeError: nothing is due though a request has not finished, or ``limit`` steps were not enough.
        """
        endless = until == float("inf")
        for _ in range(limit):
            if endless and not self.unfinished:
                return
            if self._queue and self._queue[0][0] > until:
                self.now = until
                return
            self.step()
        raise RuntimeError(f"not finished after {limit} steps at {self.now:.0f} ms")

    def step(self) -> None:
        """Let the next thing happen.

        Raises:
            RuntimeError: there is none.
        """
        if not self._queue:
            raise RuntimeError("nothing is due, but a request has not finished")
        self.now, _, do = heapq.heappop(self._queue)
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
        self._arm()

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
            self._hang_up()
        elif isinstance(action, Emit):
            self.outputs[action.sequence].tokens += action.tokens
        elif isinstance(action, Finished):
            self.unfinished -= 1
            self.outputs[action.sequence].finished = action
            self.outputs[action.sequence].finished_ms = self.now

    def _verify(self, action: Verify) -> None:
        tokens = list(action.prefix[: action.length])
        output: list[int] = []
        log_probs: list[float] = []
        for draft in (*action.drafts, None):
            token = self.pair.target(tokens, action.sampling)
            log_probs.append(self.pair.log_prob(tokens, token, action.sampling))
            output.append(token)
            tokens.append(token)
            if token != draft:
                break
        fails, hangs = self._fault(self.weather.target_fails), self._fault(self.weather.target_hangs)
        failed = Failed(action.action, "target engine: simulated fault")

        def done(engine_ms: float) -> None:
            if not hangs:
                verified = Verified(action.action, tuple(output), tuple(log_probs), engine_ms)
                self._controller(failed if fails else verified)

        cost = self.costs.verify_ms(len(action.drafts), action.length)
        self.gpu.run(Job(action.action[0], False, cost, done))

    def _draft(self, action: Draft) -> None:
        tokens = [*action.prefix[: action.length], *action.path]
        drafted, log_probs = [], []
        for _ in range(action.count):
            token, log_prob = self.pair.draft(tokens, 1, action.sampling)[0]
            drafted.append(token)
            log_probs.append(log_prob)
            tokens.append(token)
        fails, hangs = self._fault(self.weather.draft_fails), self._fault(self.weather.draft_hangs)
        failed = Failed(action.action, "draft engine: simulated fault")

        def done(engine_ms: float) -> None:
            if not hangs:
                event = Drafted(action.action, tuple(drafted), tuple(log_probs), engine_ms)
                self._controller(failed if fails else event)

        cost = self.costs.local_ms(action.count, len(tokens) - action.count)
        self.gpu.run(Job(action.action[0], True, cost, done))

    def _fault(self, probability: float) -> bool:
        return probability > 0.0 and self._random.random() < probability

    # The network

    def _connect(self, link: int) -> None:
        if self.weather.cut or self.worker is None or self.weather.worker_down:
            self.at(self.now + 1.0, lambda: self._controller(Disconnected(link, "connection refused")))
            return
        self._connection += 1
        self._connected = True
        self._last_due = {"up": 0.0, "down": 0.0}
        connection = self._connection
        self.at(self.now + 2 * self.weather.one_way_ms(self.now), lambda: self._opened(link, connection))

    def _opened(self, link: int, connection: int) -> None:
        if connection == self._connection and self._connected:
            self._controller(Connected(link))

    def _send_up(self, action: Send) -> None:
        event: WorkerEvent
        event = LinkOpened(self._connection, action.data) if action.opening else Steered(action.data)
        connection = self._connection

        def arrive() -> None:
            if self.worker is not None and connection == self._connection:
                self._worker(event)

        self._carry("up", arrive, lossy=not action.opening)

    def _send_down(self, action: Send) -> None:
        connection = self._connection

        def arrive() -> None:
            if connection == self._connection and self._connected:
                self._controller(Received(0, action.data))

        if action.link == self._connection:
            self._carry("down", arrive, lossy=True)

    def _carry(self, way: str, arrive: Callable[[], None], *, lossy: bool) -> None:
        weather = self.weather
        if not self._connected or weather.silent or (lossy and self._random.random() < weather.loss):
            return
        copies = 2 if self._random.random() < weather.duplicate else 1
        for _ in range(copies):
            due = self.now + weather.one_way_ms(self.now) + self._random.random() * weather.jitter_ms
            if not weather.reorder:
                due = max(due, self._last_due[way])
                self._last_due[way] = due
            self.at(due, arrive)

    def _hang_up(self) -> None:
        if self._connected:
            self._connected = False
            connection = self._connection
            self.at(
                self.now + self.weather.one_way_ms(self.now),
                lambda: self._worker(Disconnected(connection, "peer left")),
            )

    def _break(self, reason: str) -> None:
        if self._connected:
            self._connected = False
            self._controller(Disconnected(0, reason))
            connection = self._connection
            self.at(self.now, lambda: self._worker(Disconnected(connection, reason)))

    # The worker's body

    def _worker(self, event: WorkerEvent) -> None:
        if self.worker is None:
            return
        for action in self.worker.handle(event, self.now):
            self._act_worker(action)
        self._arm_worker()

    def _act_worker(self, action: WorkerAction) -> None:
        if isinstance(action, Expand):
            counts = [len(item.leaves) for item in action.batch]
            leaves = sum(counts)
            context = sum([item.length * count for item, count in zip(action.batch, counts, strict=True)]) / leaves
            cost = self.costs.expand_ms(leaves, context)
            done: WorkerEvent = Expanded(action.number, self.pair.expand(action.batch, action.top, cost))
            if self._random.random() < self.weather.worker_fails:
                done = ExpandFailed(action.number, "draft engine: simulated fault")
            incarnation = self._incarnation
            self.at(self.now + cost, lambda: self._worker(done) if incarnation == self._incarnation else None)
        elif isinstance(action, Send):
            self._send_down(action)
        elif isinstance(action, Disconnect) and action.link == self._connection:
            connection, reason = self._connection, action.reason
            due = max(self.now + self.weather.one_way_ms(self.now), self._last_due["down"])
            self.at(due, lambda: self._break(reason) if connection == self._connection else None)

    # Timers. One that is no longer the next does nothing when it fires.

    def _arm(self) -> None:
        due = self.controller.deadline()
        if due < self._controller_tick:
            self._controller_tick = due
            self.at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if due != self._controller_tick:
            return
        self._controller_tick = float("inf")
        if self.controller.deadline() <= self.now:
            self._controller(Tick())
        else:
            self._arm()

    def _arm_worker(self) -> None:
        due = float("inf") if self.worker is None else self.worker.deadline()
        if due < self._worker_tick:
            self._worker_tick = due
            self.at(due, lambda: self._tick_worker(due))

    def _tick_worker(self, due: float) -> None:
        if due != self._worker_tick:
            return
        self._worker_tick = float("inf")
        if self.worker is not None and self.worker.deadline() <= self.now:
            self._worker(Tick())
        else:
            self._arm_worker()
