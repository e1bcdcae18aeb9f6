"""What benchmarks of our own software share: two regions with engines that cost nothing, and the rounds of answers."""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Iterable, Sequence

from wanspec.core.replay import replay
from wanspec.core.rounds import Round
from wanspec.models import resolve
from wanspec.network.shape import LinkShape
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings


def zero_deployment(agreement: float, link: LinkShape | None = None) -> Deployment:
    """Two regions whose engines take no time; ``link`` None joins them without a relay. To be started."""
    zero = EngineSettings(engine="zero", agreement=agreement)
    regions = RegionSettings(resolve("small-target"), resolve("small-draft"), EngineSettings(engine="zero"), zero, zero)
    return Deployment(DeploymentSettings(regions, link=link))


def warm_up(deployment: Deployment) -> None:
    """Wait until drafts come from the worker."""
    client, deadline = WanspecClient(deployment.controller.grpc_endpoint), time.monotonic() + 20
    while time.monotonic() < deadline:
        answer = client.ask([9, 9], max_tokens=50, policy="wanspec", end_id=-1).result()
        if answer.summary["accepted_remote"]:
            return
    raise SystemExit("the worker does not answer")


def generate(deployment: Deployment, prompt: Sequence[int], tokens: int, policy: str) -> tuple[list[int], list[Round]]:
    """Have an answer streamed over HTTP; bytes are understood at the end, so that this takes little of the cores.

    Returns:
        Its tokens and its rounds, without the prefill.
    """
    inputs = {"input_ids": list(prompt), "max_tokens": tokens, "policy": policy, "end_id": -1}
    body = json.dumps(inputs | {"stream": True, "return_event_log": True}).encode()
    url = f"http://127.0.0.1:{deployment.controller.ports.http}/v2/models/wanspec/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=120) as answer:
        raw: bytes = answer.read()
    events = [json.loads(line[len("data: ") :]) for line in raw.decode().splitlines() if line.startswith("data: ")]
    output: list[int] = []
    for event in events:
        new = event["output_ids"]
        output += new if isinstance(new, list) else [new]
    log = events[-1]["event_log"]
    (replayed,) = replay(log.splitlines() if isinstance(log, str) else log).values()
    return output, replayed.rounds[1:]


def overhead_ms(each: Round) -> float:
    """All of a round but the time of engines."""
    return each.ended_ms - each.began_ms - sum(step.engine_ms for step in each.steps)


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """How many, and p50, p90, p99 (ms)."""
    known = list(values)
    cuts = statistics.quantiles(known, n=100)
    named = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]}
    return {"count": len(known), **{name: round(value, 3) for name, value in named.items()}}
