"""Software overhead of a round: real servers, a real stream between them without a relay, engines that cost nothing.

With such engines a round is nothing but our software, Triton, gRPC and the loopback: BLS calls, the controller, the
link, the worker. Prints one JSON object: p50, p90 and p99 (ms) of a round for each policy, engine times
taken off, waits for the worker included. Every answer is compared with `target_only`. Answers are streamed over HTTP
to a client that reads bytes and understands them at the end: it takes little of the cores that the servers need.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request

from wanspec.core.replay import replay
from wanspec.models import resolve
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings

POLICIES = ("target_only", "local", "remote_sync", "wanspec", "adaptive")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6, help="requests a policy")
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request")
    parser.add_argument("--agreement", type=float, default=0.8, help="how often the draft is right")
    arguments = parser.parse_args()
    zero = EngineSettings(engine="zero", agreement=arguments.agreement)
    regions = RegionSettings(resolve("small-target"), resolve("small-draft"), EngineSettings(engine="zero"), zero, zero)
    rounds: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    with Deployment(DeploymentSettings(regions, link=None)) as deployment:
        _warm_up(WanspecClient(deployment.controller.grpc_endpoint))
        exact = True
        for index in range(arguments.requests):
            reference: list[int] | None = None
            for policy in POLICIES:
                output, log = _generate(deployment.controller.ports.http, [1 + index, 2, 3], arguments.tokens, policy)
                reference = reference or output
                exact &= output == reference and len(output) == arguments.tokens
                rounds[policy] += _overheads(log)
    report = {"benchmark": "round_overhead", "engines": "zero-cost", "exact": exact, "agreement": arguments.agreement}
    sys.stdout.write(json.dumps(report | {policy: _quantiles(values) for policy, values in rounds.items()}) + "\n")
    return 0 if exact else 1


def _warm_up(client: WanspecClient) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = client.ask([9, 9], max_tokens=50, policy="wanspec", end_id=-1).result()
        if answer.summary["accepted_remote"]:
            return
    raise SystemExit("the worker does not answer")


def _generate(port: int, prompt: list[int], tokens: int, policy: str) -> tuple[list[int], list[str]]:
    """Have an answer streamed; return its tokens and its event log."""
    inputs = {"input_ids": prompt, "max_tokens": tokens, "policy": policy, "end_id": -1}
    body = json.dumps(inputs | {"stream": True, "return_event_log": True}).encode()
    url = f"http://127.0.0.1:{port}/v2/models/wanspec/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        raw: bytes = answer.read()
    events = [json.loads(line[len("data: ") :]) for line in raw.decode().splitlines() if line.startswith("data: ")]
    output: list[int] = []
    for event in events:
        new = event["output_ids"]
        output += new if isinstance(new, list) else [new]
    log = events[-1]["event_log"]
    return output, log.splitlines() if isinstance(log, str) else log


def _overheads(log: list[str]) -> list[float]:
    (replayed,) = replay(log).values()
    return [r.ended_ms - r.began_ms - r.engine_ms for r in replayed.rounds[1:]]


def _quantiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"rounds": len(values), "p50": round(cuts[49], 3), "p90": round(cuts[89], 3), "p99": round(cuts[98], 3)}


if __name__ == "__main__":
    sys.exit(main())
