"""Our Grafana dashboards. ``docs/observability.md`` says how to read them, ``docs/metrics.md`` what each metric is."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.observability.panels import HALF, Query, board, figure, graph, note, number, section, spans, trace

_AT = 'instance=~"$instance"'
_REQUESTS, _EACH = "nv_trt_llm_request_metrics", "{{model}} {{request_type}}"
_ROUND = tuple(f"round.{name}" for name in ("drafted", "accepted", "rtt_ms", "network_ms", "engine_queue_ms", "gpu_ms"))
_UP = 'state="up"'
_RATE, _RANGE = "[$__rate_interval]", "[$__range]"


def _series(name: str, more: str = "") -> str:
    return f"wanspec_{name}{{{_AT}{', ' if more else ''}{more}}}"


def _rate(name: str, more: str = "", by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({_series(name, more)}{_RATE}))"


def _by(name: str, label: str) -> Query:
    return _rate(name, by=label), f"{{{{{label}}}}}"


def _grown(name: str, more: str = "") -> str:
    return f"sum(increase({_series(name, more)}{_RANGE}))"


def _worker(name: str, over: str = _RATE) -> str:
    function = "rate" if over == _RATE else "increase"
    return f"sum({function}(wanspec_worker_{name}{over}))"


def _quantiles(name: str) -> tuple[Query, ...]:
    buckets = _rate(f"{name}_bucket", by="le")
    return tuple((f"histogram_quantile({q}, {buckets})", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


def overview() -> dashboard.Dashboard:
    """What an operator looks at first."""
    failing = _rate("requests_total", 'reason=~"error|busy|deadline"')
    links = f"sum({_series('link_state')})"
    down = f"{links} - sum({_series('link_state', _UP)})"
    accepted, verified = _rate("drafts_accepted_total", by="origin"), _rate("drafts_verified_total", by="origin")
    made = board("wanspec-overview", "WANSpec: fleet overview", "Load, latency, speculation, faults.")
    made = section(
        made,
        "",
        figure("Requests per second", "reqps", _rate("requests_total")),
        figure("Tokens per second", "short", _rate("tokens_total")),
        figure("Running", "short", f"sum({_series('requests_running')})"),
        figure("Waiting", "short", f"sum({_series('requests_waiting')})"),
        figure("Failing", "percentunit", f"({failing} or vector(0)) / {_rate('requests_total')}", bad_above=0.01),
        figure("Links down", "short", down, bad_above=1),
    )
    made = section(
        made,
        "Latency",
        graph("Time to first token", "s", *_quantiles("time_to_first_token_seconds")),
        graph("Time per output token", "s", *_quantiles("time_per_output_token_seconds")),
        graph("Whole requests", "s", *_quantiles("request_seconds")),
        graph(
            "Where the time goes",
            "short",
            _by("path_seconds_total", "part"),
            about="Seconds a second, of all requests that decode, one part after the other: docs/metrics.md.",
            stacked=True,
        ),
        graph("Waiting for a turn", "s", *_quantiles("queue_seconds")),
        graph("Requests by end", "reqps", _by("requests_total", "reason"), stacked=True),
    )
    made = section(
        made,
        "Speculation",
        graph("Tokens by who proposed them", "short", _by("tokens_total", "origin"), stacked=True),
        graph("Acceptance", "percentunit", (f"{accepted} / {verified}", "{{origin}}")),
        graph("Tokens per round", "short", (f"{_rate('tokens_total')} / {_rate('rounds_total')}", "tokens")),
        graph("What policies came down to", "reqps", _by("requests_total", "regime"), stacked=True),
        graph("Local drafts by why", "ops", _by("local_drafts_total", "cause"), stacked=True),
        graph("The switch in force", "short", (f"max by (mode) ({_series('speculation')})", "{{mode}}")),
    )
    made = section(
        made,
        "Engines",
        graph("Requests in engines", "short", (f"sum by (model, request_type) ({_REQUESTS})", _EACH), width=HALF),
        graph("KV cache in use", "percentunit", (_cache(), "{{model}}"), width=HALF),
    )
    return section(
        made,
        "Faults",
        graph("Worker lost, link down", "short", (down, "links down"), (_drops(), "drops")),
        graph("RTT spikes", "s", *_quantiles("rtt_seconds"), (f"max({_series('link_rtt_seconds')})", "last frame")),
        graph("Desynchronisations", "ops", (_rate("desyncs_total"), "here"), (_worker("desyncs_total"), "worker")),
        graph(
            "What happened in rounds",
            "ops",
            (_rate("events_total", 'event!="worker opens it"', by="event"), "{{event}}"),
            width=HALF,
        ),
        graph("Why workers lost sequences", "ops", _by("lost_total", "reason"), width=HALF),
    )


def wan() -> dashboard.Dashboard:
    """The path between the regions, and what is at its other end."""
    per_token = f"{_rate('link_bytes_total')} / {_rate('tokens_total')}"
    waiting = f"{_rate('wait_seconds_total')} / {_rate('request_seconds_sum')}"
    passes, wasted = _worker("passes_total"), f"{_worker('wasted_leaves_total')} / {_worker('leaves_total')}"
    made = board("wanspec-wan", "WANSpec: WAN and workers", "Round trips, waits, links, and the worker's passes.")
    made = section(
        made,
        "WAN",
        graph("Round trip", "s", (_series("link_rtt_seconds"), "{{instance}} {{link}}"), *_quantiles("rtt_seconds")),
        graph("Network time of a round", "s", *_quantiles("round_network_seconds")),
        graph("Waits, seconds a second", "short", _by("wait_seconds_total", "cause"), stacked=True),
        graph("Waits", "ops", _by("waits_total", "cause"), (_rate("wait_timeouts_total"), "deadline")),
        graph("Share of time in waits", "percentunit", (waiting, "waiting")),
        graph("What policies reckon with", "s", (f"avg by (of) ({_series('estimate_seconds')})", "{{of}}")),
        graph("Link state", "short", (f"{_series('link_state')} == 1", "{{instance}} link {{link}} {{state}}")),
        graph("Bytes", "Bps", _by("link_bytes_total", "direction"), stacked=True),
        graph("Bytes per token", "bytes", (per_token, "both ways")),
        graph("Frames", "ops", _by("link_frames_total", "direction")),
        graph("Connections", "ops", (_rate("link_connects_total"), "connects"), (_drops(), "drops")),
        graph("Frames dropped", "ops", _by("link_bad_frames_total", "kind")),
    )
    made = section(
        made,
        "Drafts from the worker",
        graph("Sequences open", "short", (f"sum({_series('sequences_open')})", "open")),
        graph("Late drafts", "percentunit", (f"{_rate('stale_nodes_total')} / {_rate('remote_nodes_total')}", "late")),
        graph("Drafts in hand", "percentunit", (_hits(), "tokens that the tree held")),
        graph("Passes that were of use", "percentunit", (_used(), "used")),
        graph("Openings", "ops", (_rate("epochs_total"), "opened"), (_rate("requests_total"), "requests")),
        graph("Rounds that accept so many", "percentunit", (_at_least(), "{{position}} or more")),
    )
    return section(
        made,
        "Workers",
        graph("Passes", "ops", (passes, "passes"), (_worker("failed_passes_total"), "failed")),
        graph("Time of a pass", "s", (f"{_worker('pass_seconds_total')} / {passes}", "mean")),
        graph("Busy", "percentunit", ("rate(wanspec_worker_pass_seconds_total[$__rate_interval])", "{{instance}}")),
        graph("Leaves of a pass", "short", (f"{_worker('leaves_total')} / {passes}", "leaves")),
        graph("Leaves wasted", "percentunit", (wasted, "wasted")),
        graph("Sequences and links", "short", *((f"sum(wanspec_worker_{n})", n) for n in ("sequences", "links"))),
        graph("Drafts sent", "ops", (_worker("nodes_total"), "drafts")),
        graph("Refused, out of order", "ops", *((_worker(f"{n}_total"), n) for n in ("refused", "gaps", "desyncs"))),
        graph(
            "Frames dropped by workers",
            "ops",
            ("sum by (kind) (rate(wanspec_worker_bad_frames_total[$__rate_interval]))", "{{kind}}"),
        ),
    )


def savings() -> dashboard.Dashboard:
    """What the split saves against policy ``local``, in passes, GPU seconds and money."""
    prices = (
        number("scarce_price", "Scarce GPU, per hour", "4", "Price of one GPU in the scarce region."),
        number("idle_price", "Idle GPU, per hour", "1", "Price of one GPU in the idle region."),
        number("wan_price", "WAN, per GB", "0.02", "Price of traffic between the regions."),
        number("target_gpus", "GPUs of the target", "1", "How many GPUs one pass of the target takes."),
        number("draft_gpus", "GPUs of the local draft", "1", "How many GPUs one pass of the local draft takes."),
        number("worker_gpus", "GPUs of the worker", "1", "How many GPUs one pass of the worker's draft takes."),
        number("draft_pass_ms", "Local draft pass, ms", "10", "Taken where none was measured in the time shown."),
    )
    about = "Against policy `local`, modelled from measured acceptance: docs/metrics.md, the baseline."
    made = board("wanspec-savings", "WANSpec: savings", about, prices)
    passes, baseline = _grown("local_draft_passes_total"), _grown("baseline_draft_passes_total")
    scarce, before, idle = _scarce(), _before(), f"{_worker('pass_seconds_total', _RANGE)} * $worker_gpus"
    wan_cost = f"{_grown('link_bytes_total')} / 1e9 * $wan_price"
    saved = f"({before} - {scarce})"
    money = f"{saved} / 3600 * $scarce_price - {idle} / 3600 * $idle_price - {wan_cost}"
    made = section(
        made,
        "",
        figure("Draft passes saved", "percentunit", f"1 - {passes} / {baseline}", about=about),
        figure("Local draft passes", "short", passes),
        figure("Those of local", "short", baseline, about=about),
        figure("Scarce GPU saved", "percentunit", f"{saved} / {before}", about=about),
        figure("Scarce GPU seconds saved", "s", saved, about=about),
        figure("Money saved", "currencyUSD", money, about="Scarce GPU saved, less idle GPU and WAN, in your currency."),
        figure("Scarce GPU seconds", "s", scarce),
        figure("Those of local", "s", before, about=about),
        figure("Idle GPU seconds", "s", idle),
        figure("WAN traffic", "bytes", _grown("link_bytes_total")),
        figure("WAN cost", "currencyUSD", wan_cost),
        figure("Saved per million tokens", "currencyUSD", f"({money}) / {_grown('tokens_total')} * 1e6"),
    )
    shadow = f"{_rate('shadow_passes_covered_total')} / ({_rate('shadow_passes_total')} > 0)"
    taken, modelled = _rate("local_draft_passes_total", by="policy"), _rate("baseline_draft_passes_total", by="policy")
    made = section(
        made,
        "",
        graph("Local draft passes", "ops", (taken, "{{policy}}"), (modelled, "{{policy}}: as local"), width=HALF),
        graph("Scarce engine time", "short", _by("engine_seconds_total", "engine"), stacked=True, width=HALF),
        graph("Rounds", "ops", (_rate("rounds_total"), "taken"), (_rate("baseline_rounds_total"), "as local")),
        graph("Idle engine time", "short", (_worker("pass_seconds_total"), "worker")),
        graph("Shadow mode: passes spared", "percentunit", (f"{shadow} or vector(0)", "spared")),
    )
    return made.with_panel(note("How this is reckoned", _RECKONED, height=6))


def request() -> dashboard.Dashboard:
    """One slow request, round by round."""
    asked = (
        number("slow", "Slower than", "2s", "Requests to list."),
        number("trace", "Trace", "", "A trace's id, from the list."),
    )
    made = board("wanspec-request", "WANSpec: one request", "Its rounds, from the traces of both regions.", asked)
    made = section(
        made,
        "",
        graph("Whole requests", "s", *_quantiles("request_seconds"), width=HALF),
        graph(
            "Where the time goes",
            "short",
            _by("path_seconds_total", "part"),
            width=HALF,
            stacked=True,
        ),
        spans("Slow requests", '{ name = "wanspec.request" && duration > $slow }', about="Take a trace's id to Trace."),
        spans("Failed requests", '{ name = "wanspec.request" && status = error }', about="Errors and deadlines."),
    )
    made = made.with_panel(trace("The request", "$trace"))
    for title, name, about, values in (
        ("Rounds", "round", "What each drafted, and where its time went.", _ROUND),
        ("Verifications", "verify", "The target's calls.", ("gpu_ms", "engine_queue_ms")),
        ("Waits", "wait", "For the worker: network and drafting.", ("cause", "network_ms", "worker_ms")),
        ("Local drafts", "draft.local", "In the scarce region.", ("cause", "gpu_ms", "engine_queue_ms")),
        ("Passes of the worker", "worker.pass", "In the idle region.", ("pass.gpu_ms", "pass.leaves")),
        ("Sequences of the worker", "worker.sequence", "Of the requests it drafted for.", ("worker.ended",)),
    ):
        chosen = ", ".join(f"span.wanspec.{value}" for value in values)
        query = f'{{ trace:id = "$trace" && name = "wanspec.{name}" }} | select({chosen})'
        made = made.with_panel(spans(title, query, about=about))
    return made


def _cache() -> str:
    used, most = (f'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="{kind}"}}' for kind in ("used", "max"))
    return f"sum by (model) ({used}) / (sum by (model) ({most}) > 0)"


def _drops() -> str:
    return _rate("link_drops_total")


def _hits() -> str:
    hits = _rate("tree_hits_total")
    return f"{hits} / ({hits} + {_rate('tree_misses_total')})"


def _at_least() -> str:
    return f"{_rate('drafts_accepted_total', by='position')} / ignoring (position) group_left {_rate('rounds_total')}"


def _used() -> str:
    return f"{_rate('remote_passes_used_total')} / {_rate('remote_draft_passes_total')}"


def _scarce() -> str:
    target, draft = (_grown("engine_seconds_total", f'engine="{engine}"') for engine in ("target", "draft"))
    return f"({target} * $target_gpus + {draft} * $draft_gpus)"


def _before() -> str:
    """GPU seconds of the scarce region, had ``local`` decoded: its modelled passes at the measured time of one."""
    target, draft = (_grown("engine_seconds_total", f'engine="{engine}"') for engine in ("target", "draft"))
    a_round = f"{target} / {_grown('rounds_total')}"
    a_pass = f"({draft} / ({_grown('local_draft_passes_total')} > 0) or vector($draft_pass_ms / 1000))"
    rounds, passes = _grown("baseline_rounds_total"), _grown("baseline_draft_passes_total")
    return f"({rounds} * {a_round} * $target_gpus + {passes} * {a_pass} * $draft_gpus)"


_RECKONED = """`local` is ordinary speculative decoding in one region with k = 2. What it would take is **modelled**
from the acceptance measured here, not run. Engine seconds are the engines' own, added up over calls: where an engine
batches calls they are more than the GPU's time, and shares are right where sums are not. docs/metrics.md has more."""

DASHBOARDS = {"overview": overview, "request": request, "wan": wan, "savings": savings}
"""By the name of their file."""
