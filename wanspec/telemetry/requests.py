"""Counts what requests do, running ones too: each look at a sequence adds what is new since the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wanspec.core.events import Finished
from wanspec.core.rounds import Round, StepKind
from wanspec.telemetry.baseline import Baseline, Cost
from wanspec.telemetry.looks import SequenceLook
from wanspec.telemetry.registry import Registry

_WAIT = "wait for "
_NOTHING = Cost(0.0, 0.0)
PARTS = ("admission", "target", "draft", "engine_queue", "failed_call", "network", "worker", "waiting")
"""Of the time of a request: see ``docs/metrics.md``."""
_MOST_PENDING = 1024
_PLAIN = {
    "remote_draft_passes": "wanspec_remote_draft_passes_total",
    "remote_passes_used": "wanspec_remote_passes_used_total",
    "remote_prefill_tokens": "wanspec_remote_prefill_tokens_total",
    "remote_nodes": "wanspec_remote_nodes_total",
    "stale_nodes": "wanspec_stale_nodes_total",
    "tree_hits": "wanspec_tree_hits_total",
    "tree_misses": "wanspec_tree_misses_total",
    "wait_timeouts": "wanspec_wait_timeouts_total",
    "epochs": "wanspec_epochs_total",
    "desyncs": "wanspec_desyncs_total",
    "engine_retries": "wanspec_engine_retries_total",
}
"""Fields of a tally that are counters as they are."""


@dataclass(slots=True)
class _Seen:
    """What has been counted of one sequence."""

    tokens: int = 0
    rounds: int = 0
    tally: Mapping[str, Any] = field(default_factory=dict)
    credited: Cost = _NOTHING


class RequestMetrics:
    """The counters and histograms of requests."""

    def __init__(self, registry: Registry, baseline: Baseline) -> None:
        self._registry = registry
        self._baseline = baseline
        self._seen: dict[int, _Seen] = {}
        self._pending: deque[tuple[str, int, Cost]] = deque(maxlen=_MOST_PENDING)

    def seen(self, number: int) -> int:
        """How many rounds of a sequence have been counted."""
        known = self._seen.get(number)
        return 0 if known is None else known.rounds

    def look(self, sequences: Iterable[SequenceLook]) -> None:
        """Count what running sequences have done since the last time."""
        for each in sequences:
            seen = self._seen.setdefault(each.number, _Seen())
            self._advance(seen, each.policy, each.output_tokens, each.tally, each.rounds)
            self._credit(seen, each.policy)

    def ended(self, finished: Finished) -> None:
        """Count the rest of a request, and the request."""
        summary, add = finished.summary, self._registry.add
        seen = self._seen.pop(finished.sequence, _Seen())
        policy, regime = str(summary.get("policy", "")), str(summary.get("regime", ""))
        add("wanspec_requests_total", 1.0, policy=policy, regime=regime, reason=finished.reason)
        if not summary:
            return
        tokens = _whole(summary["output_tokens"])
        self._advance(seen, policy, tokens, summary, finished.rounds[seen.rounds :])
        self._credit(seen, policy)
        if not self._baseline.known and tokens:
            self._pending.append((policy, tokens, seen.credited))
        add("wanspec_prompt_tokens_total", _whole(summary["prompt_tokens"]))
        self._observe_times(policy, tokens, summary)

    def settle(self) -> None:
        """Once acceptance is known, credit answers that ended before it was."""
        while self._pending and self._baseline.known:
            policy, tokens, credited = self._pending.popleft()
            self._credit(_Seen(tokens, credited=credited), policy)

    def _observe_times(self, policy: str, tokens: int, summary: Mapping[str, Any]) -> None:
        observe = self._registry.observe
        latency, first, queued = summary["latency_ms"] / 1e3, summary["ttft_ms"], summary["queued_ms"] / 1e3
        observe("wanspec_request_seconds", latency, policy=policy)
        observe("wanspec_queue_seconds", queued)
        self._registry.add("wanspec_path_seconds_total", queued, part="admission")
        if first is None:
            return
        observe("wanspec_time_to_first_token_seconds", first / 1e3, policy=policy)
        if tokens > 1:
            observe("wanspec_time_per_output_token_seconds", (latency - first / 1e3) / (tokens - 1), policy=policy)

    # What is new of one sequence

    def _advance(
        self, seen: _Seen, policy: str, tokens: int, tally: Mapping[str, Any], rounds: Iterable[Round]
    ) -> None:
        before, add = seen.tally, self._registry.add
        grown = _Growth(before, tally)
        for name, metric in _PLAIN.items():
            add(metric, grown.of(name))
        add("wanspec_rounds_total", grown.of("rounds"), policy=policy)
        add("wanspec_local_draft_passes_total", grown.of("local_draft_passes"), policy=policy)
        remote, local = grown.of("accepted_remote"), grown.of("accepted_local")
        for origin, count in (("remote", remote), ("local", local), ("target", tokens - seen.tokens - remote - local)):
            add("wanspec_tokens_total", count, policy=policy, origin=origin)
        add("wanspec_engine_seconds_total", grown.of("target_ms") / 1e3, engine="target")
        add("wanspec_engine_seconds_total", grown.of("local_draft_ms") / 1e3, engine="draft")
        for name, count in grown.counts("causes"):
            metric = "waits" if name.startswith(_WAIT) else "local_drafts"
            add(f"wanspec_{metric}_total", count, cause=name.removeprefix(_WAIT))
        for name, count in grown.counts("lost"):
            add("wanspec_lost_total", count, reason=name)
        for name, count in grown.counts("shadow"):
            add(f"wanspec_shadow_{name}_total", count)
        self._positions(before.get("positions", {}), tally["positions"])
        for each in rounds:
            self._round(each, ended=each.index < tally["rounds"])
            seen.rounds += 1
        seen.tokens, seen.tally = tokens, tally

    def _positions(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for origin, places in now.items():
            known = before.get(origin, [])
            for place, (verified, accepted) in enumerate(places):
                old = known[place] if place < len(known) else (0, 0)
                if verified == old[0]:
                    continue
                labels = {"origin": origin, "position": str(place + 1)}
                self._registry.add("wanspec_drafts_verified_total", verified - old[0], **labels)
                self._registry.add("wanspec_drafts_accepted_total", accepted - old[1], **labels)
                self._baseline.learn(place, verified - old[0], accepted - old[1])

    def _round(self, done: Round, *, ended: bool) -> None:
        registry = self._registry
        for step in done.steps:
            if step.kind is StepKind.WAIT:
                registry.add("wanspec_wait_seconds_total", step.took_ms / 1e3, cause=step.cause.removeprefix(_WAIT))
                parts = {"network": step.network_ms, "worker": step.worker_ms, "waiting": step.waiting_ms}
            elif step.failed:
                parts = {"failed_call": step.took_ms}
            else:
                name = "target" if step.kind is StepKind.VERIFY else "draft"
                parts = {name: step.took_ms - step.queued_ms, "engine_queue": step.queued_ms}
            for part, ms in parts.items():
                registry.add("wanspec_path_seconds_total", max(0.0, ms) / 1e3, part=part)
        for _, what in done.events:
            registry.add("wanspec_events_total", 1.0, event=what)
        if not ended:
            return
        registry.observe("wanspec_target_pass_seconds", done.engine_ms / 1e3)
        registry.observe("wanspec_round_network_seconds", done.network_ms / 1e3)

    def _credit(self, seen: _Seen, policy: str) -> None:
        if not self._baseline.known or seen.tokens == 0:
            return
        cost, old = self._baseline.cost(seen.tokens), seen.credited
        rounds, passes = max(0.0, cost.rounds - old.rounds), max(0.0, cost.passes - old.passes)
        self._registry.add("wanspec_baseline_rounds_total", rounds, policy=policy)
        self._registry.add("wanspec_baseline_draft_passes_total", passes, policy=policy)
        seen.credited = Cost(old.rounds + rounds, old.passes + passes)


class _Growth:
    """By how much the values of a tally have grown."""

    def __init__(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        self._before, self._now = before, now

    def of(self, name: str) -> float:
        return float(self._now[name] - self._before.get(name, 0))

    def counts(self, name: str) -> list[tuple[str, float]]:
        """Of a counter by name: those that have grown."""
        old = self._before.get(name, {})
        grown = ((each, count - old.get(each, 0)) for each, count in self._now[name].items())
        return [(each, count) for each, count in grown if count]


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
