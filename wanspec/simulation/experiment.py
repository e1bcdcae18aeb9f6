"""Policies side by side: the same requests through the production controller and worker."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import TypeAlias

from threadpoolctl import threadpool_limits

from wanspec.core.config import ControllerConfig, Fingerprint, WorkerConfig
from wanspec.core.events import Request
from wanspec.core.sampling import GREEDY, Sampling
from wanspec.errors import ConfigError
from wanspec.simulation.setup import DEEDS, Contender, Measured, Setup, measured
from wanspec.simulation.world import World

CHUNK = 20
"""Requests of one world (as many for each that runs at once); fixed, so that processes change no result."""
WARM_UP = 2
"""Requests at the start of each world that are not counted: a server in use has measured its step times before."""
CONTEXT = 4096
MOST_AT_ONCE = 256

Job: TypeAlias = tuple[Setup, Contender]

_taken: list[tuple[Setup, ...]] = []


def measure(
    setup: Setup, contender: Contender, numbers: Sequence[int], log: Callable[[str], None] | None = None
) -> list[Measured]:
    """Run some requests in one world, after a warm-up.

    Args:
        setup: all but the policy.
        contender: the policy.
        numbers: which requests; a request of the same number and seed is the same under every policy.
        log: receives the controller's event log.

    Raises:
        InvalidRequestError: the policy or one of its parameters is unknown.
        ConfigError: a deed is unknown.
    """
    world = make_world(setup, numbers[0], log)
    world.run(until=world.now + 4 * setup.rtt_ms + 100.0)
    waiting = [*(-1 - numbers[0] - i for i in range(WARM_UP * setup.concurrent)), *numbers][::-1]
    order: dict[int, int] = {}
    found: dict[int, Measured] = {}
    while waiting or world.unfinished:
        while waiting and world.unfinished < setup.concurrent:
            order[len(order)] = waiting[-1]
            _submit(world, len(order) - 1, setup, contender, waiting.pop())
        world.finish_one()
        for sequence in [s for s, output in world.outputs.items() if output.finished is not None]:
            finished = world.outputs.pop(sequence).finished
            assert finished is not None
            found[order[sequence]] = measured(finished.summary, world.gpu.shares.pop(sequence, 0.0))
        if setup.pause_ms and not world.unfinished:
            world.run(until=world.now + setup.pause_ms)
    return [found[number] for number in numbers]


def make_world(setup: Setup, number: int = 0, log: Callable[[str], None] | None = None) -> World:
    """Make the two regions of a setup; ``number`` makes networks of worlds differ."""
    fingerprint = Fingerprint(b"t" * 32, setup.pair.vocab_size, "simulated")
    costs = setup.costs
    least = setup.rtt_ms / 2 * (1.0 - setup.jitter)
    return World(
        setup.pair,
        costs=costs,
        weather=replace(setup.weather, delay_ms=least, jitter_ms=setup.weather.jitter_ms + setup.rtt_ms * setup.jitter),
        controller=ControllerConfig(
            fingerprint, context=CONTEXT, verify_costs=costs.verify_model(), draft_costs=costs.draft_model()
        ),
        worker=WorkerConfig(fingerprint, context=CONTEXT, max_leaves=setup.leaves, costs=costs.worker_model()),
        seed=setup.seed + number,
        log=log,
        gpu_batch=(setup.max_batch_size or MOST_AT_ONCE) if setup.concurrent > 1 else 0,
    )


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

    Raises:
        InvalidRequestError: a policy or one of its parameters is unknown.
        ConfigError: a deed is unknown.
    """
    found = run_jobs([(setup, contender) for contender in contenders], processes=processes, progress=progress)
    return {contender.name: results for contender, results in zip(contenders, found, strict=True)}


def run_jobs(
    jobs: Sequence[Job], *, processes: int = 1, progress: Callable[[int], None] | None = None
) -> list[list[Measured]]:
    """Run contenders, each in a setup of its own, in one pool of processes.

    Args:
        jobs: what to run in which setup.
        processes: how many to use; the results do not depend on it.
        progress: told of requests that are done.

    Returns:
        For each job one measurement a request, in the order of the requests.

    Raises:
        InvalidRequestError: a policy or one of its parameters is unknown.
        ConfigError: a deed is unknown.
    """
    chunks = [_chunks(setup) for setup, _ in jobs]
    longest = max(map(len, chunks), default=0)
    tasks = [(job, mine[turn]) for turn in range(longest) for job, mine in enumerate(chunks) if turn < len(mine)]
    done: dict[tuple[int, int], list[Measured]] = {}
    for job, start, results in _each(jobs, tasks, processes):
        done[job, start] = results
        if progress is not None:
            progress(len(results))
    return [[one for chunk in mine for one in done[job, chunk[0]]] for job, mine in enumerate(chunks)]


def processors() -> int:
    """How many processes this machine runs at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each(
    jobs: Sequence[Job], tasks: Sequence[tuple[int, range]], processes: int
) -> Iterator[tuple[int, int, list[Measured]]]:
    if processes <= 1:
        with threadpool_limits(1, user_api="blas"):
            for job, chunk in tasks:
                yield job, chunk[0], measure(*jobs[job], chunk)
        return
    setups = tuple(setup for setup, _ in jobs)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(processes, context, _take, (setups,)) as pool:
        futures = {pool.submit(_measure_taken, job, jobs[job][1], chunk): (job, chunk) for job, chunk in tasks}
        try:
            for future in as_completed(futures):
                job, chunk = futures[future]
                yield job, chunk[0], future.result()
        finally:
            for future in futures:
                future.cancel()


def _take(setups: tuple[Setup, ...]) -> None:
    """Keep setups in a process of the pool: sources' tables are sent once, not with every task."""
    _taken.append(setups)
    gc.freeze()
    gc.set_threshold(100_000)  # trees are cycles, and short-lived
    threadpool_limits(1, user_api="blas")  # every CPU has a process of its own


def _measure_taken(job: int, contender: Contender, numbers: range) -> list[Measured]:
    return measure(_taken[-1][job], contender, numbers)


def _chunks(setup: Setup) -> list[range]:
    size = CHUNK * setup.concurrent
    return [range(start, min(start + size, setup.requests)) for start in range(0, setup.requests, size)]


def _submit(world: World, sequence: int, setup: Setup, contender: Contender, number: int) -> None:
    parameters = dict(contender.parameters)
    if contender.policy == "wanspec":
        parameters.setdefault("width", setup.leaves)
    sampling = Sampling(setup.temperature, seed=number & 0xFFFFFFFF) if setup.temperature else GREEDY
    prompt = setup.prompt(number)
    request = Request(prompt, setup.tokens, policy=contender.policy, parameters=parameters, sampling=sampling)
    for time, deed in setup.deeds:
        world.at(world.now + time, partial(_do, world, deed))
    world.submit(sequence, request)


def _do(world: World, deed: str) -> None:
    if deed not in DEEDS:
        raise ConfigError("deeds", f"{deed!r} is not one of {', '.join(DEEDS)}")
    if deed == "restart":
        if world.worker is None:
            world.restart_worker()
    elif deed in ("silence", "speak"):
        world.weather.silent = deed == "silence"
    else:
        {"crash": world.crash_worker, "cut": world.cut_link, "mend": world.mend_link}[deed]()
