"""Turns looks at a controller or a worker into their metrics. No thread and no clock."""

from __future__ import annotations

from wanspec.core.control import Speculation
from wanspec.core.events import Finished
from wanspec.core.link import LinkState
from wanspec.core.messages import LostCode
from wanspec.core.policies import POLICIES
from wanspec.core.roundlog import RTT_SPIKE
from wanspec.core.tree import Origin
from wanspec.telemetry.baseline import Baseline
from wanspec.telemetry.catalogue import CONTROLLER, WORKER, Kind
from wanspec.telemetry.looks import ControllerLook, LinkLook, WorkerLook
from wanspec.telemetry.registry import Families, Registry
from wanspec.telemetry.requests import PARTS, RequestMetrics

EVENTS = ("worker opens it", "link down", "desync", "wait timed out", "local draft failed", "target failed", RTT_SPIKE)
"""Of rounds, but for those of a worker that lost a sequence."""
_REGIMES = ("local_adaptive", "target_only")
_DIRECTIONS = ("up", "down")


class ControllerSeries:
    """The metrics of the model ``wanspec``."""

    def __init__(self, backend: Families) -> None:
        self._registry = Registry(backend, CONTROLLER)
        self._requests = RequestMetrics(self._registry, Baseline())

    @property
    def exporting(self) -> bool:
        """Whether the server takes metrics."""
        return self._registry.exporting

    def seen(self, number: int) -> int:
        """How many rounds of a sequence have been counted."""
        return self._requests.seen(number)

    def ended(self, finished: Finished) -> None:
        """Count a request that has ended."""
        self._requests.ended(finished)

    def show(self, look: ControllerLook) -> None:
        """Bring all metrics up to a look."""
        self._requests.look(look.sequences)
        self._requests.settle()
        self._set_gauges(look)
        for number, link in enumerate(look.links):
            self._count_link(str(number), link)
        self._registry.flush()

    def declare(self) -> None:
        """Have time series with known labels be there from the start: a rate needs the value before the first."""
        registry = self._registry
        for metric in CONTROLLER:
            if not metric.labels and metric.kind is not Kind.GAUGE:
                registry.declare(metric.name)
        for policy in POLICIES:
            self._declare_policy(policy)
        for reason in ("busy", "refused"):
            registry.declare("wanspec_requests_total", policy="", regime="", reason=reason)
        for part in PARTS:
            registry.declare("wanspec_path_seconds_total", part=part)
        for event in EVENTS:
            registry.declare("wanspec_events_total", event=event)
        for code in LostCode:
            registry.declare("wanspec_lost_total", reason=code.name.lower())
            registry.declare("wanspec_events_total", event=f"worker lost it: {code.name.lower()}")

    def _declare_policy(self, policy: str) -> None:
        registry = self._registry
        for name in ("rounds", "local_draft_passes", "baseline_rounds", "baseline_draft_passes"):
            registry.declare(f"wanspec_{name}_total", policy=policy)
        for origin in Origin:
            registry.declare("wanspec_tokens_total", policy=policy, origin=origin.label)
        for regime in {policy, *(_REGIMES if policy == "adaptive" else ())}:
            for reason in ("stop", "length", "cancelled", "deadline", "error"):
                registry.declare("wanspec_requests_total", policy=policy, regime=regime, reason=reason)

    def _set_gauges(self, look: ControllerLook) -> None:
        registry = self._registry
        registry.set("wanspec_requests_running", look.running)
        registry.set("wanspec_requests_waiting", look.waiting)
        registry.set("wanspec_reserved_tokens", look.reserved_tokens)
        registry.set("wanspec_sequences_open", look.open)
        for mode in Speculation:
            registry.set("wanspec_speculation", float(mode.value == look.speculation), mode=mode.value)
        for name, ms in look.estimates.items():
            registry.set("wanspec_estimate_seconds", ms / 1e3, of=name)

    def _count_link(self, link: str, look: LinkLook) -> None:
        registry, counters = self._registry, look.counters
        for state in LinkState:
            registry.set("wanspec_link_state", float(state.value == look.state), link=link, state=state.value)
        # A link that is down has none, and must not go on showing its last.
        registry.set("wanspec_link_rtt_seconds", (look.rtt_ms or 0.0) / 1e3, link=link)
        if look.rtt_ms is not None:
            registry.observe("wanspec_rtt_seconds", look.rtt_ms / 1e3)
        for direction in _DIRECTIONS:
            for what in ("bytes", "frames"):
                total = counters[f"{what}_{direction}"]
                registry.count_to(f"wanspec_link_{what}_total", total, link=link, direction=direction)
        registry.count_to("wanspec_link_connects_total", counters["connects"], link=link)
        registry.count_to("wanspec_link_drops_total", counters["drops"], link=link)
        for kind in ("malformed", "foreign"):
            registry.count_to("wanspec_link_bad_frames_total", counters[kind], link=link, kind=kind)


class WorkerSeries:
    """The metrics of the model ``wanspec_worker``."""

    def __init__(self, backend: Families) -> None:
        self._registry = Registry(backend, WORKER)

    @property
    def exporting(self) -> bool:
        """Whether the server takes metrics."""
        return self._registry.exporting

    def show(self, look: WorkerLook) -> None:
        """Bring all metrics up to a look."""
        registry, counters = self._registry, look.counters
        for name in ("passes", "leaves", "wasted_leaves", "nodes", "failed_passes", "desyncs", "gaps", "refused"):
            registry.count_to(f"wanspec_worker_{name}_total", counters[name])
        registry.count_to("wanspec_worker_pass_seconds_total", counters["pass_ms"] / 1e3)
        for field, kind in (("malformed", "malformed"), ("foreign", "foreign"), ("duplicates", "duplicate")):
            registry.count_to("wanspec_worker_bad_frames_total", counters[field], kind=kind)
        registry.set("wanspec_worker_sequences", look.sequences)
        registry.set("wanspec_worker_links", look.links)
        registry.flush()
