"""What tracing costs: latencies of two deployments, one of which traces every request to a collector on this machine.

Real servers with the small pair, paced, behind a relay; requests go to one and the other in turn. Prints one JSON
object: medians of both with quartiles (ms a request), and the median of the differences of pairs as a share. Every
answer is compared with the other's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

from wanspec.models import resolve
from wanspec.network.shape import LinkShape
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.receiver import SpanReceiver
from wanspec.telemetry.settings import TraceSettings
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings

PACES = (23.4, 7.5, 7.5)
PROMPT = "The people of the United States"


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30, help="pairs of requests")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a request")
    parser.add_argument("--rtt-ms", type=float, default=30.0)
    parser.add_argument("--policy", default="wanspec")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        receiver = stack.enter_context(SpanReceiver())
        clients = [
            _client(stack, traces, arguments.rtt_ms) for traces in (TraceSettings(), TraceSettings(receiver.url))
        ]
        took: list[tuple[float, float]] = []
        exact = True
        for index in range(arguments.requests):
            pair, texts = [0.0, 0.0], ["", ""]
            for which in (0, 1) if index % 2 else (1, 0):  # who goes first may be slower
                pair[which], texts[which] = _ask(clients[which], arguments.policy, arguments.tokens)
            took.append((pair[0], pair[1]))
            exact &= texts[0] == texts[1]
        spans = len(receiver.spans)
    off, on = ([pair[which] for pair in took] for which in (0, 1))
    report = {
        "benchmark": "tracing_overhead",
        "policy": arguments.policy,
        "rtt_ms": arguments.rtt_ms,
        "tokens": arguments.tokens,
        "pairs": len(took),
        "exact": exact,
        "spans": spans,
        "off_ms": _quartiles(off),
        "on_ms": _quartiles(on),
        "overhead": round(statistics.median(b / a - 1.0 for a, b in took), 4),
        "overhead_quartiles": [round(cut, 4) for cut in _cuts([b / a - 1.0 for a, b in took])],
    }
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if exact and spans else 1


def _client(stack: ExitStack, traces: TraceSettings, rtt_ms: float) -> WanspecClient:
    target, draft, worker = (EngineSettings(dtype="float64", pace_ms=pace) for pace in PACES)
    regions = RegionSettings(resolve("small-target"), resolve("small-draft"), target, draft, worker)
    settings = DeploymentSettings(replace(regions, traces=traces), LinkShape(delay_ms=rtt_ms / 2))
    client = WanspecClient(stack.enter_context(Deployment(settings)).controller.grpc_endpoint)
    deadline = time.monotonic() + 30
    while not client.ask(PROMPT, max_tokens=24, end_id=-1).result().summary["accepted_remote"]:
        if time.monotonic() > deadline:
            raise SystemExit("the worker does not answer")
    return client


def _ask(client: WanspecClient, policy: str, tokens: int) -> tuple[float, str]:
    """Latency in ms, and the text. Both deployments get a trace context; one has somewhere to send it."""
    begin = time.perf_counter()
    answer = client.ask(PROMPT, max_tokens=tokens, policy=policy, end_id=-1, traceparent=str(TraceContext.new()))
    text = answer.result().text
    return (time.perf_counter() - begin) * 1000.0, text


def _cuts(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4)


def _quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = _cuts(values)
    return {"median": round(middle, 2), "p25": round(low, 2), "p75": round(high, 2)}


if __name__ == "__main__":
    sys.exit(main())
