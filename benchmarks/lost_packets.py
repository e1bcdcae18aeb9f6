"""One TCP connection against several where packets get lost: real servers, a real stream through the relay.

Many sequences at once, without a break, for some seconds at each loss, in turns. Engines have no model but the pace of
a profile, so that the processor is there for what is measured. Prints one JSON object a line: tokens per second,
quantiles of a request's time, tokens that a round brings, packets lost, bytes a token. Every answer is compared with
the target's own text. Times are given without the scale.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wanspec.cli.machine import describe_machine
from wanspec.cli.regions import link_shape
from wanspec.engines.zero import ZeroModel
from wanspec.models import resolve
from wanspec.network.stats import RelayStats
from wanspec.simulation.timings import timing
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings, engine_config

LOSSES, STREAMS = (0.0, 0.001, 0.01), (1, 4)
TURNS = 2


@dataclass
class Tally:
    """Of one loss."""

    seconds: float = 0.0
    summaries: list[dict[str, Any]] = field(default_factory=list)
    exact: bool = True
    lost: int = 0
    carried: int = 0


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="connections to the worker")
    parser.add_argument("--loss", type=float, nargs="+", default=LOSSES, help="share of packets lost")
    parser.add_argument("--seconds", type=float, default=30.0, help="at each loss, for each number of connections")
    parser.add_argument("--sequences", type=int, default=16, help="at once")
    parser.add_argument("--tokens", type=int, default=48, help="of a request")
    parser.add_argument("--rtt-ms", type=float, default=30.0, help="round trip, without the scale")
    parser.add_argument("--time-scale", type=float, default=4.0, help="stretches paces and the round trip")
    arguments = parser.parse_args()
    exact = True
    for streams in arguments.streams:
        for loss, tally in run(streams, arguments).items():
            exact &= tally.exact
            sys.stdout.write(json.dumps(report(streams, loss, tally, arguments)) + "\n")
            sys.stdout.flush()
    return 0 if exact else 1


def run(streams: int, arguments: argparse.Namespace) -> dict[float, Tally]:
    """One deployment: all losses, in turns."""
    costs = timing("paper-cloud").costs
    target, draft = resolve("small-target"), resolve("small-draft")
    regions = RegionSettings(
        target,
        draft,
        EngineSettings(engine="zero", pace_ms=costs.target_ms),
        EngineSettings(engine="zero", pace_ms=costs.draft_ms, agreement=0.8),
        EngineSettings(engine="zero", pace_ms=costs.pass_ms, agreement=0.8),
        time_scale=arguments.time_scale,
        streams=streams,
    )
    shape = link_shape(arguments.rtt_ms, 0.0, None, 0.0, arguments.time_scale)
    model = ZeroModel(engine_config(regions, "target").vocab_size)
    tallies = {loss: Tally() for loss in arguments.loss}
    with Deployment(DeploymentSettings(regions, shape)) as deployment:
        client = WanspecClient(deployment.controller.grpc_endpoint)
        _load(client, model, 4.0 * arguments.time_scale, arguments, Tally())  # until all is measured and linked
        for _ in range(TURNS):
            for loss, tally in tallies.items():
                deployment.relay.set(loss=loss)
                before = deployment.relay.stats()
                _load(client, model, arguments.seconds / TURNS, arguments, tally)
                _count(tally, before, deployment.relay.stats())
    return tallies


def report(streams: int, loss: float, tally: Tally, arguments: argparse.Namespace) -> dict[str, Any]:
    """What came of one loss."""
    scale, summaries = arguments.time_scale, tally.summaries
    tokens = sum(summary["output_tokens"] for summary in summaries)
    times = sorted(summary["latency_ms"] / scale for summary in summaries)
    quantiles = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "benchmark": "lost_packets",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "engines": "zero-cost, paced as paper-cloud",
        "time_scale": scale,
        "rtt_ms": arguments.rtt_ms,
        "sequences": arguments.sequences,
        "streams": streams,
        "loss": loss,
        "exact": tally.exact,
        "requests": len(summaries),
        "tokens_per_s": round(scale * tokens / tally.seconds, 1),
        "latency_p50_ms": round(quantiles[49], 1),
        "latency_p95_ms": round(quantiles[94], 1),
        "latency_p99_ms": round(quantiles[98], 1),
        "tokens_a_round": round(tokens / sum(summary["rounds"] for summary in summaries), 3),
        "local_draft_passes": sum(summary["local_draft_passes"] for summary in summaries),
        "lost_packets": tally.lost,
        "wan_bytes_a_token": round(tally.carried / tokens, 1),
    }


def _load(client: WanspecClient, model: ZeroModel, seconds: float, arguments: argparse.Namespace, tally: Tally) -> None:
    """Keep so many sequences running for a time; each ends by itself."""
    began = time.monotonic()
    lock = threading.Lock()

    def sequence(number: int) -> None:
        turn = 0
        while time.monotonic() - began < seconds:
            prompt = [1 + number, 2 + turn, 3]
            answer = client.ask(prompt, max_tokens=arguments.tokens, policy="adaptive", end_id=-1).result()
            with lock:
                tally.summaries.append(answer.summary)
                tally.exact &= answer.tokens == _text(model, prompt, arguments.tokens)
            turn += 1

    threads = [threading.Thread(target=sequence, args=(number,)) for number in range(arguments.sequences)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.seconds += time.monotonic() - began


def _text(model: ZeroModel, prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(model.target_token(tokens[-2], tokens[-1]))
    return tokens[len(prompt) :]


def _count(tally: Tally, before: RelayStats, after: RelayStats) -> None:
    for old, new in ((before.up, after.up), (before.down, after.down)):
        tally.lost += new.lost_packets - old.lost_packets
        tally.carried += new.bytes - old.bytes


if __name__ == "__main__":
    sys.exit(main())
