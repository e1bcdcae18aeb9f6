"""The simulator against real servers: the same prompts of one pair, paced engines, several round trips.

First it records the pair on the benchmark's prompts: what the target writes, and what the draft says along and beside
it. Then `wanspec bench` measures, and the simulator runs the same policies on the recording, with the same step times,
leaves and warm-up. Prints one JSON object a line, a policy at a round trip: latency and local draft passes, measured
and simulated, and by how much the simulated ones are off. Latency is the mean over all answers, without the time scale.
The exit code is 1 where an output was not the target's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wanspec.bench.results import Results, load
from wanspec.bench.rows import as_measured, unscaled
from wanspec.cli.simulation_options import contenders
from wanspec.models import PAIRS, resolve
from wanspec.prompts import bench_prompts
from wanspec.simulation.catalogue import source_setup
from wanspec.simulation.experiment import processors, run_jobs
from wanspec.simulation.setup import Contender, Measured, Setup
from wanspec.simulation.timings import timing
from wanspec.simulation.traces import TracePair, write_trace
from wanspec.triton.regions import DEFAULT_LEAVES
from wanspec.triton.text import TextCodec


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all answers of a policy: mean latency, local draft passes, tokens."""

    latency_ms: float
    draft_passes: int
    tokens: int

    @classmethod
    def of(cls, answers: Sequence[Measured]) -> Totals:
        """Add answers up."""
        return cls(
            sum(answer.latency_ms for answer in answers) / len(answers),
            sum(answer.draft_passes for answer in answers),
            sum(answer.tokens for answer in answers),
        )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=list(PAIRS), default="small")
    parser.add_argument("--rtt", type=float, nargs="+", default=(10.0, 30.0, 70.0), help="round trips, ms")
    parser.add_argument("--policy", default="adaptive,wanspec:width=16", help="beside local, by commas")
    parser.add_argument("--profile", default="paper-cloud", help="step times")
    parser.add_argument("--time-scale", type=float, default=2.0, help="stretches paces and the round trip")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=80, help="of an answer")
    parser.add_argument("--warm-up", type=int, default=2, help="requests not counted")
    parser.add_argument("--dtype", default="float64", help="of all models")
    parser.add_argument("--trace", type=Path, help="keep the recording here, or take what is there")
    arguments = parser.parse_args()
    exact = True
    with TemporaryDirectory(prefix="wanspec-agreement-") as folder:
        trace = arguments.trace or Path(folder) / "pair.trace.gz"
        if not trace.exists():
            write_trace(trace, recorded(arguments))
        for rtt in arguments.rtt:
            measured = bench(arguments, rtt, Path(folder) / f"{rtt:g}.jsonl")
            exact &= measured.exact
            for line in compared(arguments, rtt, measured, trace):
                sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return 0 if exact else 1


def recorded(arguments: argparse.Namespace) -> TracePair:
    """The pair on the prompts that `wanspec bench` takes; wide, since a tree of 64 leaves explores many contexts."""
    from wanspec.engines.torch_model import TorchModel
    from wanspec.simulation.recording import Width, record

    names = PAIRS[arguments.pair]
    target, draft = (TorchModel.load(resolve(name), dtype=arguments.dtype) for name in names)
    codec = TextCodec(resolve(names[0]))
    chat = codec.has_chat_template
    prompts = [codec.encode(prompt.text(chat), chat=chat) for prompt in bench_prompts(arguments.prompts)]
    texts = record(target, draft, prompts, arguments.tokens, Width(branches=48, depth=6, floor=0.004))
    return TracePair(tuple(texts), target.vocab_size, {"target": names[0], "draft": names[1]})


def bench(arguments: argparse.Namespace, rtt: float, saved: Path) -> Results:
    """Measure on servers."""
    options = {
        "pair": arguments.pair, "profile": arguments.profile, "time-scale": arguments.time_scale, "rtt": rtt,
        "prompts": arguments.prompts, "tokens": arguments.tokens, "warm-up": arguments.warm_up,
        "dtype": arguments.dtype, "policy": arguments.policy, "save": saved,
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in options.items()]
    program = [str(Path(sys.executable).with_name("wanspec")), "bench", "--ignore-end", "--json", *given]
    subprocess.run(program, stdout=subprocess.DEVNULL, check=False)  # an output that differs is told by what it saved
    return load([saved])


def compared(arguments: argparse.Namespace, rtt: float, measured: Results, trace: Path) -> list[dict[str, Any]]:
    """One line a policy."""
    setup = source_setup(
        f"trace:{trace}", 1, costs=timing(arguments.profile).costs, leaves=DEFAULT_LEAVES, rtt_ms=rtt,
        requests=arguments.prompts, tokens=arguments.tokens,
    )  # fmt: skip
    policies = [Contender("local", {"k": measured.conditions.k}, "local"), *contenders(arguments.policy)]
    found = run_jobs([(setup, policy) for policy in policies], processes=processors())
    lines, scale = [], measured.conditions.time_scale
    busy = max(usage.busy for usage in measured.usages)
    for policy, answers in zip(policies, found, strict=True):
        samples = [sample for sample in measured.samples if sample.policy == policy.name]
        real = [as_measured(replace(each, summary=unscaled(each.summary, scale))) for each in samples]
        lines.append({
            "benchmark": "agreement", "date": measured.conditions.date, "machine": measured.conditions.machine,
            "pair": arguments.pair, "profile": arguments.profile, "time_scale": scale, "busy": round(busy, 2),
            "rtt_ms": rtt, "policy": policy.name, "requests": len(real), "exact": measured.exact,
            **line(Totals.of(real), Totals.of(answers), baseline_passes(setup, found[0])),
        })  # fmt: skip
    return lines


def baseline_passes(setup: Setup, answers: Sequence[Measured]) -> float:
    """Local draft passes a token of standard speculative decoding."""
    return sum(answer.draft_passes for answer in answers) / (setup.requests * setup.tokens)


def line(real: Totals, simulated: Totals, usual: float) -> dict[str, Any]:
    """What is compared. ``passes_off`` is a share of the measured ones, None where there are none; ``saved_off`` the
    difference between the shares of ``local``'s passes that are saved.
    """
    passes, ours = real.draft_passes / real.tokens, simulated.draft_passes / simulated.tokens
    return {
        "latency_ms": round(real.latency_ms, 1),
        "simulated_latency_ms": round(simulated.latency_ms, 1),
        "latency_off": round(simulated.latency_ms / real.latency_ms - 1.0, 3),
        "passes_a_token": round(passes, 4),
        "simulated_passes_a_token": round(ours, 4),
        "passes_off": round(ours / passes - 1.0, 3) if passes else None,
        "saved_off": round((passes - ours) / usual, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
