"""What a controller has done since it began, and what it does now, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wanspec.core.sequence import Sequence
from wanspec.core.shadow import COUNTS

if TYPE_CHECKING:
    from wanspec.core.controller import Controller
    from wanspec.core.link import Link

SUMS = (
    "rounds",
    "local_draft_passes",
    "remote_draft_passes",
    "drafted_local",
    "drafted_remote",
    "accepted_local",
    "accepted_remote",
    "remote_passes_used",
    "waits",
)
"""Of a sequence's tally, what is added up."""
TIMES = ("target_ms", "local_draft_ms", "waited_ms")
"""The same, of what is not a whole number."""
SHOWN = 20
"""Most sequences in a state."""


class Totals:
    """Sums over all sequences of a controller."""

    def __init__(self) -> None:
        self._ends: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._shadow: Counter[str] = Counter()
        self._times = dict.fromkeys(TIMES, 0.0)

    def refused(self) -> None:
        """Count a request that was busy."""
        self._ends["busy"] += 1

    def ended(self, sequence: Sequence) -> None:
        """Count a sequence by its end."""
        self._ends[sequence.end_reason] += 1
        _add(sequence, self._sums, self._shadow, self._times)

    def with_running(self, sequences: Iterable[Sequence]) -> dict[str, Any]:
        """Return the sums, with those that have not ended as far as they are."""
        sums, shadow, times = self._sums.copy(), self._shadow.copy(), self._times.copy()
        for sequence in sequences:
            _add(sequence, sums, shadow, times)
        return {
            "ended": dict(self._ends),
            "tokens": sums["tokens"],
            **{name: sums[name] for name in SUMS},
            **{name: round(times[name], 3) for name in TIMES},
            "shadow": {name: shadow[name] for name in COUNTS},
        }


def _add(sequence: Sequence, sums: Counter[str], shadow: Counter[str], times: dict[str, float]) -> None:
    sums["tokens"] += sequence.generated
    for name in SUMS:
        sums[name] += getattr(sequence.tally, name)
    for name in TIMES:
        times[name] += getattr(sequence.tally, name)
    shadow.update(sequence.tally.shadow)


def state_of(controller: Controller) -> dict[str, Any]:
    """Describe a controller: its switches, its load and limits, its links, some of its sequences, its totals."""
    control, config, admission = controller.control, controller.config, controller.admission
    median = controller.estimators.median
    sequences = [*controller.sequences.values(), *admission.waiting.values()]
    return {
        "speculation": control.speculation.value,
        "policy": control.policy,
        "policy_parameters": dict(control.parameters),
        "running": admission.running,
        "waiting": len(admission.waiting),
        "reserved_tokens": admission.reserved,
        "limits": {
            "sequences": config.max_sequences,
            "reserved_tokens": config.max_reserved_tokens,
            "queue": config.max_queue,
        },
        "links": [link.state.value for link in controller.links],
        "link_details": [_link(link) for link in controller.links],
        "rtt_ms": _rounded(median("rtt")),
        "step_ms": {name: _rounded(median(name)) for name in ("verify", "draft", "pass")},
        "sequences": [_sequence(sequence, controller) for sequence in sequences[:SHOWN]],
        "totals": controller.totals.with_running(controller.sequences.values()),
    }


def _link(link: Link) -> dict[str, Any]:
    counters = link.counters
    return {
        "state": link.state.value,
        "rtt_ms": _rounded(link.rtt_ms if link.up else None),
        "refusal": link.refusal,
        **{name: getattr(counters, name) for name in ("bytes_up", "bytes_down", "connects", "drops")},
    }


def _sequence(sequence: Sequence, controller: Controller) -> dict[str, Any]:
    tally = sequence.tally
    return {
        "number": sequence.number,
        "waiting": sequence.number in controller.admission.waiting,
        "policy": sequence.policy.name,
        "prompt_tokens": len(sequence.request.prompt),
        "tokens": sequence.generated,
        "max_tokens": sequence.request.max_tokens,
        "rounds": tally.rounds,
        "worker": sequence.remote.open,
        **{name: getattr(tally, name) for name in SUMS[1:]},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
