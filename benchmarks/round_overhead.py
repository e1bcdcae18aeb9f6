"""Software overhead of a round: real servers, a real stream between them without a relay, engines that cost nothing.

With such engines a round is nothing but our software, Triton, gRPC and the loopback: BLS calls, the controller, the
link, the worker. Prints a JSON object a line: p50, p90 and p99 (ms) of a round for each policy, engine times
taken off, waits for the worker included. Half of the requests, in turn, are measured with the CPUs kept awake
(docs/operations.md, The host), half with the CPUs as they are. Every answer is compared with `target_only`.
`benchmarks.own_cost` says what such a round consists of.

    python -m benchmarks.round_overhead
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict

from benchmarks.awake import cpus_awake
from benchmarks.zero_rounds import generate, overhead_ms, quantiles, warm_up, zero_deployment
from wanspec.cli.machine import describe_machine

POLICIES = ("target_only", "local", "remote_sync", "wanspec", "adaptive")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6, help="requests a policy, of either kind")
    parser.add_argument("--tokens", type=int, default=200, help="tokens a request")
    parser.add_argument("--agreement", type=float, default=0.8, help="how often the draft is right")
    arguments = parser.parse_args()
    rounds: dict[tuple[bool, str], list[float]] = defaultdict(list)
    exact = True
    with zero_deployment(arguments.agreement) as deployment:
        warm_up(deployment)
        for index in range(arguments.requests):
            for wanted in (False, True):
                reference: list[int] | None = None
                with cpus_awake(wanted) as awake:
                    for policy in POLICIES:
                        output, made = generate(deployment, [1 + index, 2, 3], arguments.tokens, policy)
                        reference = reference or output
                        exact &= output == reference and len(output) == arguments.tokens
                        rounds[awake, policy] += map(overhead_ms, made)
    for awake in sorted({kind for kind, _ in rounds}):
        report = {"benchmark": "round_overhead", "machine": describe_machine(), "engines": "zero-cost", "exact": exact}
        report |= {"agreement": arguments.agreement, "cpus_awake": awake}
        report |= {policy: quantiles(rounds[awake, policy]) for policy in POLICIES}
        sys.stdout.write(json.dumps(report) + "\n")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
