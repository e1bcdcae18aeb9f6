"""What our own software costs: a round by part, beside the least that it could cost; many sequences in one controller.

    python -m benchmarks.own_cost                       all, some 2 minutes on 2 cores
    python -m benchmarks.own_cost --at-once 1,16        of so many sequences at once
    python -m benchmarks.own_cost --core                the state machines alone, without servers

Engines cost nothing, the regions are joined by a relay without delay, the CPUs are kept awake where the system lets us
(docs/operations.md, The host; `cpus_awake` says whether it does). Prints JSON lines. Every answer is compared with
`target_only`.

- `floor`: a BLS call to a model that does nothing, a round trip of 64 bytes through the relay. Measured in turn with
  the rounds.
- `round`: overhead of a round by policy and sequences at once, ms: all of it, calls of the target and of the local
  draft, waits for the worker. `times_floor` is its p99 by the sum of the floor's.
- `load`: rounds per second of one controller, and CPU time a round by process.
- `core`: microseconds of the state machines: a controller's events of a round, a worker's pass, by sequences.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.awake import cpus_awake
from benchmarks.core_cost import core_row
from benchmarks.null_calls import NullServer, null_relay, relay_ms
from benchmarks.zero_rounds import generate, overhead_ms, quantiles, warm_up, zero_deployment
from wanspec.bench.meter import Meter
from wanspec.cli.machine import describe_machine
from wanspec.core.rounds import Round, StepKind
from wanspec.network.shape import LinkShape
from wanspec.triton.deployment import Deployment

POLICIES = ("target_only", "local", "wanspec", "adaptive")
_FLOOR_CALLS = 300
_PARTS = {StepKind.VERIFY: "target_call", StepKind.DRAFT: "local_draft_call", StepKind.WAIT: "wait"}


class Measured:
    """What has been measured at one number of sequences at once."""

    def __init__(self) -> None:
        self.rounds: dict[str, list[Round]] = defaultdict(list)
        self.wall_s: dict[str, float] = defaultdict(float)
        self.cpu_ms: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.bls_ms: list[float] = []
        self.relay_ms: list[float] = []
        self.exact = True

    def floor_row(self, at_once: int) -> dict[str, Any]:
        """JSON of the floor."""
        return {
            "row": "floor",
            "at_once": at_once,
            "bls_ms": quantiles(self.bls_ms),
            "relay_ms": quantiles(self.relay_ms),
        }

    def round_row(self, policy: str, at_once: int) -> dict[str, Any]:
        """JSON of a policy's rounds."""
        rounds = self.rounds[policy]
        whole = quantiles(map(overhead_ms, rounds))
        parts: dict[str, list[float]] = defaultdict(list)
        for step in (step for each in rounds for step in each.steps):
            parts[_PARTS[step.kind]].append(step.took_ms - step.engine_ms)
        floor = quantiles(self.bls_ms)["p99"] + quantiles(self.relay_ms)["p99"]
        row = {"row": "round", "policy": policy, "at_once": at_once, "exact": self.exact, "overhead_ms": whole}
        row["times_floor"] = round(whole["p99"] / floor, 2)
        return row | {f"{name}_ms": quantiles(values) for name, values in parts.items() if len(values) > 1}

    def load_row(self, policy: str, at_once: int) -> dict[str, Any]:
        """JSON of what a controller does per second."""
        count = len(self.rounds[policy])
        cpu = {name: round(ms / count, 3) for name, ms in self.cpu_ms[policy].items()}
        row = {
            "row": "load",
            "policy": policy,
            "at_once": at_once,
            "rounds_per_s": round(count / self.wall_s[policy], 1),
        }
        return row | {"cpu_ms_a_round": round(sum(cpu.values()), 3), "cpu_ms_by_process": cpu}


def _both(values: dict[str, float]) -> str:
    return f"{values['p50']:.2f} ms (p99 {values['p99']:.2f})"


def measure(deployment: Deployment, null: NullServer, at_once: int, requests: int, tokens: int) -> Measured:
    """Run all policies in turn, the floor between them."""
    found, meter = Measured(), Meter(deployment)
    with null_relay() as connection, ThreadPoolExecutor(at_once) as pool:
        for index in range(requests):
            found.bls_ms += null.call_ms(_FLOOR_CALLS)
            found.relay_ms += relay_ms(connection, _FLOOR_CALLS)
            prompts = [[1 + index, 2 + number, 3] for number in range(at_once)]
            reference: list[list[int]] | None = None
            for policy in POLICIES:
                before, began = meter.read().cpu_ms, time.monotonic()
                answers = list(
                    pool.map(lambda prompt, name=policy: generate(deployment, prompt, tokens, name), prompts)
                )
                found.wall_s[policy] += time.monotonic() - began
                for name, ms in meter.read().cpu_ms.items():
                    found.cpu_ms[policy][name] += ms - before[name]
                outputs = [output for output, _ in answers]
                reference = reference or outputs
                found.exact &= outputs == reference and all(len(output) == tokens for output in outputs)
                for _, rounds in answers:
                    found.rounds[policy] += rounds
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", default="1,4,16,32", help="sequences at once, a list")
    parser.add_argument("--requests", type=int, default=5, help="groups of so many requests, a policy")
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request, all sequences of a group together")
    parser.add_argument("--agreement", type=float, default=0.8, help="how often the draft is right")
    parser.add_argument("--core", action="store_true", help="only the state machines")
    given = parser.parse_args(arguments)
    with cpus_awake() as awake:
        _say({"machine": describe_machine(), "cpus_awake": awake} | core_row())
        return 0 if given.core else _with_servers(given)


def _with_servers(given: argparse.Namespace) -> int:
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        null = NullServer(Path(folder))
        with null.server as server, zero_deployment(given.agreement, LinkShape()) as deployment:
            server.wait_ready(120.0)
            warm_up(deployment)
            for at_once in map(int, given.at_once.split(",")):
                tokens = max(32, given.tokens // min(at_once, 4))
                found = measure(deployment, null, at_once, given.requests, tokens)
                exact &= found.exact
                _say(found.floor_row(at_once))
                for policy in POLICIES:
                    _say(found.round_row(policy, at_once))
                    _say(found.load_row(policy, at_once))
    return 0 if exact else 1


def _say(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
