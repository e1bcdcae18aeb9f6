"""Every metric that we add to those of Triton: one table, which ``docs/metrics.md`` repeats.

Names and units are Prometheus's: seconds, bytes, counters end in ``_total``. Label values come from fixed sets of the
code, never from a request, so that the number of time series is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SHORT = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""Buckets of what happens within a round, s."""
LONG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
"""Buckets of what happens to a request, s."""


class Kind(Enum):
    """Of a metric, as Triton and Prometheus name them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        help: what it counts, in one sentence.
        labels: their names.
        buckets: upper bounds, of a histogram.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"wanspec_{name}_total", Kind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"wanspec_{name}", Kind.GAUGE, text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(f"wanspec_{name}", Kind.HISTOGRAM, text, labels, buckets)


REQUESTS = (
    _counter(
        "requests",
        "Requests that ended, by policy, by the policy that it came down to, and by why they ended.",
        "policy",
        "regime",
        "reason",
    ),
    _counter("prompt_tokens", "Tokens of the prompts of requests that ended."),
    _histogram("request_seconds", "From a request's arrival to its end.", LONG, "policy"),
    _histogram("time_to_first_token_seconds", "From a request's arrival to its first token.", LONG, "policy"),
    _histogram("time_per_output_token_seconds", "Between tokens of an answer after the first.", SHORT, "policy"),
    _histogram("queue_seconds", "From a request's arrival to its turn.", LONG),
    _gauge("requests_running", "Requests that decode."),
    _gauge("requests_waiting", "Requests that wait for their turn."),
    _gauge("reserved_tokens", "Tokens that the requests that decode may come to hold."),
)
DECODING = (
    _counter("rounds", "Verifications, prefills included.", "policy"),
    _counter("tokens", "Tokens of answers, by who proposed them: remote, local, target.", "policy", "origin"),
    _counter("drafts_verified", "Drafts verified, by who proposed them and place in the chain.", "origin", "position"),
    _counter("drafts_accepted", "Of these, accepted drafts.", "origin", "position"),
    _counter("local_draft_passes", "Passes of the local draft model: drafting in the scarce region.", "policy"),
    _counter("baseline_rounds", "Modelled: verifications that policy local would take for the same answers.", "policy"),
    _counter("baseline_draft_passes", "Modelled: local draft passes that it would take.", "policy"),
    _counter("local_drafts", "Calls of the local draft, by why.", "cause"),
    _counter("tree_hits", "Committed tokens that were among the drafts in hand."),
    _counter("tree_misses", "Committed tokens that were not."),
)
TIMES = (
    _counter("engine_seconds", "The engines' own time in the scarce region: target, draft.", "engine"),
    _counter("path_seconds", "What requests spent their time on, one part after the other.", "part"),
    _counter("waits", "Waits for the worker, by what for.", "cause"),
    _counter("wait_seconds", "Their time.", "cause"),
    _counter("wait_timeouts", "Waits that reached their deadline."),
    _histogram("target_pass_seconds", "The target engine's own time of a round.", SHORT),
    _histogram("round_network_seconds", "How long a round waited for the network, Triton's transport included.", SHORT),
    _histogram("rtt_seconds", "Round trip of the last frame of each link, looked at once a second.", SHORT),
    _gauge("estimate_seconds", "Medians of the last measurements, which policies decide by.", "of"),
)
WORKERS = (
    _counter("remote_draft_passes", "Passes of the worker's draft, once for each sequence served."),
    _counter("remote_passes_used", "Of these, passes that foresaw a token of the text."),
    _counter("remote_prefill_tokens", "Prompt tokens that the worker computed."),
    _counter("remote_nodes", "Drafts that came from the worker."),
    _counter("stale_nodes", "Of these, drafts that came too late."),
    _counter("epochs", "How often sequences were opened on a worker."),
    _counter("desyncs", "How often the controller found that a worker had another prefix."),
    _counter("lost", "How often a worker gave a sequence up, by why.", "reason"),
    _counter("engine_retries", "Verifications that failed and were tried again."),
    _counter("events", "What went wrong or changed in the rounds of requests.", "event"),
    _counter("shadow_rounds", "Verifications in shadow mode."),
    _counter("shadow_tokens", "Tokens that these committed."),
    _counter("shadow_tokens_covered", "Of these, tokens that the worker's drafts had foreseen."),
    _counter("shadow_passes", "Local draft passes in shadow mode."),
    _counter("shadow_passes_covered", "Of these, passes that the worker would have spared."),
    _gauge("sequences_open", "Sequences that a worker drafts for."),
    _gauge("speculation", "1 for the switch in force: off, local, shadow, remote.", "mode"),
)
LINKS = (
    _gauge("link_state", "1 for the state that a link is in: down, connecting, handshake, up.", "link", "state"),
    _gauge("link_rtt_seconds", "Round trip that the last frame measured.", "link"),
    _counter("link_bytes", "Bytes of frames, without gRPC, TLS and TCP; up is to the worker.", "link", "direction"),
    _counter("link_frames", "Frames.", "link", "direction"),
    _counter("link_connects", "How often a link's transport came up.", "link"),
    _counter("link_drops", "How often a link that was up went down.", "link"),
    _counter("link_bad_frames", "Frames dropped: malformed, or foreign to what they were about.", "link", "kind"),
)
CONTROLLER = (*REQUESTS, *DECODING, *TIMES, *WORKERS, *LINKS)
"""What the model ``wanspec`` adds to its server's metrics."""

WORKER = (
    _counter("worker_passes", "Draft passes."),
    _counter("worker_pass_seconds", "The draft engine's own time of these."),
    _counter("worker_leaves", "Leaves that they expanded."),
    _counter("worker_wasted_leaves", "Of these, leaves that were no longer wanted when the pass ended."),
    _counter("worker_nodes", "Drafts sent to controllers."),
    _counter("worker_failed_passes", "Passes that failed or took too long."),
    _counter("worker_bad_frames", "Frames dropped: malformed, foreign, duplicate.", "kind"),
    _counter("worker_desyncs", "Commits and openings that did not agree with the worker's prefix."),
    _counter("worker_gaps", "Commits that came before an earlier one."),
    _counter("worker_refused", "Links refused."),
    _gauge("worker_sequences", "Sequences open."),
    _gauge("worker_links", "Links open."),
)
"""What the model ``wanspec_worker`` adds to its server's metrics."""
