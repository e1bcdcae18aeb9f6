"""What a sequence remembers of its rounds: counters for the summary and one record a round."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import NamedTuple, TypeAlias

from wanspec.core.tree import Origin

Scores: TypeAlias = tuple[tuple[str, float], ...]
"""What a policy expected of each option, in tokens; empty where it weighs nothing."""


class StepKind(Enum):
    """What a sequence was doing."""

    VERIFY = "verify"
    DRAFT = "draft"
    WAIT = "wait"


class Step(NamedTuple):
    """A part of a round. Steps follow each other without a gap. Times in ms, ``*_ms`` since the request was submitted.

    Attributes:
        kind: an engine call, or a wait for the worker.
        began_ms, ended_ms: from the decision to its outcome.
        cause: why it drafted or waited; how it failed, if it did.
        scores: of the options, as they were when it was decided.
        engine_ms: of an engine call, the engine's own time; the rest of it is Triton's queue and transport.
        network_ms, worker_ms: of a wait that drafts ended, how long they or the commit they follow were under way
            between the regions, and how long the worker had the commit. Half a round trip each way is assumed.
        failed: of an engine call that failed or was given up: how long the engine worked for it is not known.
    """

    kind: StepKind
    began_ms: float
    ended_ms: float
    cause: str = ""
    scores: Scores = ()
    engine_ms: float = 0.0
    network_ms: float = 0.0
    worker_ms: float = 0.0
    failed: bool = False

    @property
    def took_ms(self) -> float:
        """From the decision to its outcome."""
        return self.ended_ms - self.began_ms

    @property
    def queued_ms(self) -> float:
        """Of an engine call that was answered, what it took beyond the engine's own time; 0 of any other step."""
        called = self.kind is not StepKind.WAIT and not self.failed
        return max(0.0, self.took_ms - self.engine_ms) if called else 0.0

    @property
    def waiting_ms(self) -> float:
        """Of a wait, what was neither network nor worker; 0 of any other step."""
        return max(0.0, self.took_ms - self.network_ms - self.worker_ms) if self.kind is StepKind.WAIT else 0.0


@dataclass(slots=True)
class Round:
    """One verification, and what led to it. Times in ms since the request was submitted.

    Attributes:
        index: from 0; round 0 is the prefill.
        length: committed tokens before it, prompt included.
        began_ms: when the decision phase began (the previous round's end).
        verify_ms: when the target was called.
        ended_ms: when its answer arrived.
        drafted, origins: draft tokens verified and who proposed each.
        accepted: how many of them were accepted.
        committed: tokens committed, accepted ones and the target's own.
        local_passes: local draft steps since the previous round.
        waited_ms, causes: time spent waiting for the worker, and why it waited or drafted locally.
        engine_ms: target engine time.
        steps: its critical path.
        events: (time, what) of what went wrong or changed: see ``docs/traces.md``.
        rtt_ms: round-trip time as it was estimated at the end; None if no worker has been heard.
        measured_rtt_ms: the last one that drafts measured meanwhile; None if none did.
        epoch: of the sequence on the worker, 0 for none.
        bytes_up, bytes_down: of the sequence's messages meanwhile.
    """

    index: int
    length: int
    began_ms: float
    verify_ms: float = 0.0
    ended_ms: float = 0.0
    drafted: tuple[int, ...] = ()
    origins: tuple[Origin, ...] = ()
    accepted: int = 0
    committed: tuple[int, ...] = ()
    local_passes: int = 0
    waited_ms: float = 0.0
    causes: tuple[str, ...] = ()
    engine_ms: float = 0.0
    steps: tuple[Step, ...] = ()
    events: tuple[tuple[float, str], ...] = ()
    rtt_ms: float | None = None
    measured_rtt_ms: float | None = None
    epoch: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def network_ms(self) -> float:
        """How long it waited for the network."""
        return sum(step.network_ms for step in self.steps)

    @property
    def queued_ms(self) -> float:
        """How long its engine calls took beyond the engines' own time: Triton's queue and transport."""
        return sum(step.queued_ms for step in self.steps)


@dataclass(slots=True)
class Tally:
    """Counters of one sequence. Times in ms, bytes without gRPC and TCP framing.

    ``remote_passes_used`` counts passes of which at least one node became text; ``remote_prefill_tokens`` are those
    that the worker's draft engine computed before its first leaf, in all epochs. The blocks are those of the target's
    KV cache in the first round, None where its engine does not tell. ``positions`` holds, by who proposed a draft, for
    each place in the verified chain how many drafts were verified there, and how many accepted. ``tree_hits`` counts
    committed tokens that the tree held, ``tree_misses`` the others. ``shadow`` has the counts of
    :class:`wanspec.core.shadow.Shadow`.
    """

    rounds: int = 0
    drafted_remote: int = 0
    drafted_local: int = 0
    accepted_remote: int = 0
    accepted_local: int = 0
    local_draft_passes: int = 0
    remote_prefill_tokens: int = 0
    remote_draft_passes: int = 0
    remote_passes_used: int = 0
    remote_nodes: int = 0
    stale_nodes: int = 0
    tree_hits: int = 0
    tree_misses: int = 0
    waits: int = 0
    waited_ms: float = 0.0
    wait_timeouts: int = 0
    target_ms: float = 0.0
    local_draft_ms: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    epochs: int = 0
    desyncs: int = 0
    engine_retries: int = 0
    kv_cache_alloc_new_blocks: int | None = None
    kv_cache_reused_blocks: int | None = None
    kv_cache_alloc_total_blocks: int | None = None
    positions: dict[str, list[list[int]]] = field(default_factory=dict)
    causes: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    shadow: Counter[str] = field(default_factory=Counter)

    @property
    def failures(self) -> int:
        """How often worker and controller came apart; a prefix that the worker no longer had is no failure."""
        return self.desyncs + sum(self.lost.values()) - self.lost["prefix"]

    def verified(self, place: int, origin: Origin, accepted: bool) -> None:
        """Count a draft at its place in the verified chain, from 0."""
        remote = origin is Origin.REMOTE
        self.drafted_remote += remote
        self.drafted_local += not remote
        self.accepted_remote += remote and accepted
        self.accepted_local += not remote and accepted
        counts = self.positions.setdefault(origin.label, [])
        counts += [[0, 0] for _ in range(len(counts), place + 1)]
        counts[place][0] += 1
        counts[place][1] += accepted

    def as_dict(self) -> dict[str, object]:
        """Return plain values, for JSON."""
        values: dict[str, object] = {each.name: getattr(self, each.name) for each in fields(self)}
        values["positions"] = {who: [list(counts) for counts in places] for who, places in self.positions.items()}
        values["causes"] = dict(self.causes)
        values["lost"] = dict(self.lost)
        values["shadow"] = dict(self.shadow)
        for name in ("waited_ms", "target_ms", "local_draft_ms"):
            values[name] = round(getattr(self, name), 3)
        return values
