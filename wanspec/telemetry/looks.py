"""What metrics see of a running controller or worker: plain values, taken with it locked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wanspec.core.controller import Controller
from wanspec.core.estimators import Estimators
from wanspec.core.link import Link
from wanspec.core.rounds import Round
from wanspec.core.sequence import Sequence
from wanspec.core.worker import Worker


@dataclass(frozen=True, slots=True)
class SequenceLook:
    """A sequence that has not ended. ``rounds``: those that have, without the ones seen before."""

    number: int
    policy: str
    output_tokens: int
    tally: Mapping[str, Any]
    rounds: list[Round]


@dataclass(frozen=True, slots=True)
class LinkLook:
    """A link. ``rtt_ms`` as the last frame measured it; None where none did, or the link is not up."""

    state: str
    rtt_ms: float | None
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ControllerLook:
    """A controller. ``estimates``: medians by name, ms."""

    running: int
    waiting: int
    reserved_tokens: int
    open: int
    speculation: str
    estimates: Mapping[str, float]
    links: list[LinkLook]
    sequences: list[SequenceLook]


@dataclass(frozen=True, slots=True)
class WorkerLook:
    """A worker."""

    sequences: int
    links: int
    counters: Mapping[str, float]


def look_at_controller(controller: Controller, seen: Callable[[int], int]) -> ControllerLook:
    """Look; ``seen`` tells how many rounds of a sequence have been looked at before."""
    admission, estimators = controller.admission, controller.estimators
    return ControllerLook(
        admission.running,
        len(admission.waiting),
        admission.reserved,
        sum(sequence.remote.open for sequence in controller.sequences.values()),
        controller.control.speculation.value,
        {name: median for name in _TIMES if (median := estimators.median(name)) is not None},
        [_link(link) for link in controller.links],
        [_sequence(sequence, seen(sequence.number)) for sequence in controller.sequences.values()],
    )


def look_at_worker(worker: Worker, links: int) -> WorkerLook:
    """Look; ``links`` are open."""
    return WorkerLook(len(worker.sequences), links, asdict(worker.counters))


_TIMES = tuple(name for name in Estimators.NAMES if name != "covered")


def _link(link: Link) -> LinkLook:
    return LinkLook(link.state.value, link.rtt_ms if link.up else None, asdict(link.counters))


def _sequence(sequence: Sequence, seen: int) -> SequenceLook:
    tally = sequence.tally.as_dict()
    return SequenceLook(sequence.number, sequence.policy.name, sequence.generated, tally, sequence.rounds[seen:])
