"""Policies side by side: the same requests, one after another, through the production controller and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace

from wanspec.core.config import ControllerConfig, Fingerprint, WorkerConfig
from wanspec.core.events import Request
from wanspec.simulation.models import Pair
from wanspec.simulation.world import Costs, Weather, World

Parameters = Mapping[str, float | int | str]

CHUNK = 20
"""Requests of one world; fixed, so that the number of processes changes no result."""
WARM_UP = 2
"""Requests at the start of each world that are not counted: a server in use has measured its step times before."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy with its parameters, as one row of a table.

    Attributes:
        policy: name in ``wanspec.core.policies.POLICIES``.
        parameters: those that are not at their defaults.
        label: what the row is called; the policy's name if empty.
    """

    policy: str
    parameters: Parameters = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """The row's name."""
        return self.label or self.policy


@dataclass(frozen=True, slots=True)
class Setup:
    """All of an experiment but the policy. Times in ms.

    Attributes:
        pair: target and draft.
        costs: engine step times.
        weather: the network; its delay is replaced by ``rtt_ms`` / 2.
        rtt_ms: round-trip time of the WAN, without engines.
        leaves: most leaves in one worker pass.
        requests: how many are counted.
        tokens: length of each answer.
        seed: of prompts and network.
    """

    pair: Pair
    costs: Costs = field(default_factory=Costs)
    weather: Weather = field(default_factory=Weather)
    rtt_ms: float = 30.0
    leaves: int = 16
    requests: int = 200
    tokens: int = 100
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One request, as the controller's summary has it. Times in ms."""

    latency_ms: float
    tokens: int
    rounds: int
    draft_passes: int
    target_ms: float
    draft_ms: float
    remote_passes: int
    remote_nodes: int
    waited_ms: float
    bytes_up: int
    bytes_down: int

    @property
    def scarce_ms(self) -> float:
        """Time of the scarce region's GPU per committed token: target and local draft."""
        return (self.target_ms + self.draft_ms) / max(1, self.tokens)


def measure(setup: Setup, contender: Contender, numbers: Sequence[int]) -> list[Measured]:
    """Run some requests one after another in one world, after a warm-up.

    Raises:
        InvalidRequestError: the policy or one of its parameters is unknown.
    """
    fingerprint = Fingerprint(b"t" * 32, setup.pair.vocab_size, "simulated")
    world = World(
        setup.pair,
        costs=setup.costs,
        weather=replace(setup.weather, delay_ms=setup.rtt_ms / 2),
        controller=ControllerConfig(fingerprint),
        worker=WorkerConfig(fingerprint, max_leaves=setup.leaves),
        seed=setup.seed + numbers[0],
    )
    world.run(until=world.now + 4 * setup.rtt_ms + 100.0)
    counted: list[Measured] = []
    for number in [*(-1 - numbers[0] - i for i in range(WARM_UP)), *numbers]:
        counted.append(_one(world, len(counted), setup, contender, number))
    return counted[WARM_UP:]


def run(
    setup: Setup,
    contenders: Sequence[Contender],
    *,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[Measured]]:
    """Run every contender on the same requests.

    Args:
        setup: what they share.
        contenders: of different names.
        processes: how many to use; the results do not depend on it.
        progress: told of requests that are done.

    Returns:
        By contender's name, one measurement a request, in the order of the requests.
    """
    tasks = [(contender, chunk) for chunk in _chunks(setup.requests) for contender in contenders]
    done: dict[tuple[str, int], list[Measured]] = {}
    for name, start, measured in _each(setup, tasks, processes):
        done[name, start] = measured
        if progress is not None:
            progress(len(measured))
    return {
        contender.name: [one for chunk in _chunks(setup.requests) for one in done[contender.name, chunk[0]]]
        for contender in contenders
    }


def _each(
    setup: Setup, tasks: Sequence[tuple[Contender, range]], processes: int
) -> Iterator[tuple[str, int, list[Measured]]]:
    if processes <= 1:
        for contender, chunk in tasks:
            yield contender.name, chunk[0], measure(setup, contender, chunk)
        return
    with ProcessPoolExecutor(processes) as pool:
        futures = {pool.submit(measure, setup, contender, chunk): (contender, chunk) for contender, chunk in tasks}
        for future in as_completed(futures):
            contender, chunk = futures[future]
            yield contender.name, chunk[0], future.result()


def _chunks(requests: int) -> list[range]:
    return [range(start, min(start + CHUNK, requests)) for start in range(0, requests, CHUNK)]


def _one(world: World, sequence: int, setup: Setup, contender: Contender, number: int) -> Measured:
    vocab = setup.pair.vocab_size
    prompt = (1 + setup.seed % (vocab - 1), 1 + number % (vocab - 1), 1 + number % 7)
    parameters = dict(contender.parameters)
    if contender.policy == "wanspec":
        parameters.setdefault("width", setup.leaves)
    world.submit(sequence, Request(prompt, setup.tokens, policy=contender.policy, parameters=parameters))
    world.run()
    finished = world.outputs.pop(sequence).finished
    assert finished is not None
    return _measured(finished.summary)


def _measured(summary: Mapping[str, object]) -> Measured:
    def number(name: str) -> float:
        value = summary[name]
        assert isinstance(value, (int, float))
        return value

    return Measured(
        latency_ms=number("latency_ms"),
        tokens=int(number("output_tokens")),
        rounds=int(number("rounds")),
        draft_passes=int(number("local_draft_passes")),
        target_ms=number("target_ms"),
        draft_ms=number("local_draft_ms"),
        remote_passes=int(number("remote_draft_passes")),
        remote_nodes=int(number("remote_nodes")),
        waited_ms=number("waited_ms"),
        bytes_up=int(number("bytes_up")),
        bytes_down=int(number("bytes_down")),
    )
