"""What a controller has done since it began, and what it does now, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wanspec.core.sequence import Sequence
from wanspec.core.shadow import COUNTS

if TYPE_CHECKING:
    from wanspec.core.controller import Controller

SUMS = (
    "rounds",
    "local_draft_passes",
    "remote_draft_passes",
    "drafted_local",
    "drafted_remote",
    "accepted_local",
    "accepted_remote",
)
"""Of a sequence's tally, what is added up."""


class Totals:
    """Sums over all sequences of a controller."""

    def __init__(self) -> None:
        self._ends: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._shadow: Counter[str] = Counter()

    def refused(self) -> None:
        """Count a request that was busy."""
        self._ends["busy"] += 1

    def ended(self, sequence: Sequence) -> None:
        """Count a sequence by its end."""
        self._ends[sequence.end_reason] += 1
        _add(sequence, self._sums, self._shadow)

    def with_running(self, sequences: Iterable[Sequence]) -> dict[str, Any]:
        """Return the sums, with those that have not ended as far as they are."""
        sums, shadow = self._sums.copy(), self._shadow.copy()
        for sequence in sequences:
            _add(sequence, sums, shadow)
        return {
            "ended": dict(self._ends),
            "tokens": sums["tokens"],
            **{name: sums[name] for name in SUMS},
            "shadow": {name: shadow[name] for name in COUNTS},
        }


def _add(sequence: Sequence, sums: Counter[str], shadow: Counter[str]) -> None:
    sums["tokens"] += sequence.generated
    for name in SUMS:
        sums[name] += getattr(sequence.tally, name)
    shadow.update(sequence.tally.shadow)


def state_of(controller: Controller) -> dict[str, Any]:
    """Describe a controller: its switches, its load and limits, its links, its totals."""
    control, config, admission = controller.control, controller.config, controller.admission
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
        "totals": controller.totals.with_running(controller.sequences.values()),
    }
