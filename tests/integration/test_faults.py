"""The worker dies, the WAN goes silent or breaks: answers complete, identical, without a stall past the deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.integration.conftest import wait_for_worker
from tests.integration.prompts import PROMPTS
from tests.integration.quick import QuickDeployment
from wanspec.core.replay import replay
from wanspec.core.tree import Origin
from wanspec.telemetry.context import TraceContext
from wanspec.telemetry.receiver import SpanReceiver
from wanspec.telemetry.settings import TraceSettings
from wanspec.triton.client import Answer, Pending, WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings

STRUCK = ("wanspec", "remote_sync", "adaptive")
TOKENS = 120
STRIKE_AFTER = 8
# docs/architecture.md: a wait for the worker ends after max(25 ms, RTT + 2 worker passes). The rest is a target step
# and a local draft of this pair, and what two loaded cores add.
STALL_MS = 400.0
# RTT of 20 ms and two passes of 12 ms make 44 ms, and remote_sync waits for two passes more; loaded cores add.
WAIT_MS = 200.0


@dataclass
class Watched:
    """An answer and the silences between its pieces, ms, before and after the strike."""

    answer: Answer
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def assert_no_long_wait(self) -> None:
        """No silence and no wait is longer than its limit, or than what this machine makes of healthy rounds."""
        busy = max(1.0, 4 * max(self.before[1:]) / STALL_MS)
        assert max(self.after) < busy * STALL_MS
        (replayed,) = replay(self.answer.event_log).values()
        assert max(each.waited_ms for each in replayed.rounds) < busy * WAIT_MS


def watch(pending: Pending, strike: Callable[[], object]) -> Watched:
    """Follow an answer; strike once it has been drafted for remotely."""
    watched = Watched(pending.answer)
    last, struck = time.monotonic(), False
    for number, _ in enumerate(pending):
        (watched.after if struck else watched.before).append((time.monotonic() - last) * 1e3)
        if not struck and number >= STRIKE_AFTER and Origin.REMOTE in pending.answer.origins:
            struck = True
            strike()
        last = time.monotonic()
    assert struck, "no remote draft was accepted"
    return watched


@pytest.fixture(scope="module")
def deployment(
    small_regions: RegionSettings, collector: SpanReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Paced so that an answer takes seconds and the target, as on a GPU, costs more than the draft."""
    paced = RegionSettings(
        small_regions.target_dir,
        small_regions.draft_dir,
        EngineSettings(dtype="float64", pace_ms=40.0),
        EngineSettings(dtype="float64", pace_ms=12.0),
        EngineSettings(dtype="float64", pace_ms=12.0),
        traces=TraceSettings(collector.url),
    )
    with QuickDeployment(DeploymentSettings(paced, log_dir=tmp_path_factory.mktemp("logs"))) as deployment:
        yield deployment


@pytest.fixture
def healthy(deployment: Deployment) -> WanspecClient:
    return healthy_client(deployment)


def healthy_client(deployment: Deployment) -> WanspecClient:
    deployment.relay.set(delay_ms=10.0, state="on")
    if not deployment.worker.running:
        deployment.worker.restart()
        deployment.worker.wait_ready(60)
    client = WanspecClient(deployment.controller.grpc_endpoint, timeout_s=30.0)
    wait_for_worker(client)
    return client


@pytest.fixture(scope="module")
def expected(deployment: Deployment) -> list[int]:
    client = WanspecClient(deployment.controller.grpc_endpoint, timeout_s=60.0)
    return client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=-1, policy="target_only").result().tokens


def ask(client: WanspecClient, policy: str = "wanspec") -> Pending:
    return client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=-1, policy=policy, event_log=True)


@dataclass
class Killed:
    """What became of answers whose worker was killed: short ones meanwhile, and a long one that saw it come back."""

    watched: dict[str, Watched]
    long: Answer
    tokens_before: int
    trace: TraceContext


@pytest.fixture(scope="module")
def killed(deployment: Deployment) -> Killed:
    """One worker's death in the middle of several answers: restarting it takes longest."""
    client = healthy_client(deployment)
    trace = TraceContext.new()
    long = client.ask(PROMPTS[0], max_tokens=600, end_id=-1, policy="remote_sync", traceparent=str(trace))
    pieces = iter(long)
    for _ in range(4):
        next(pieces)
    all_drafted_for = threading.Barrier(len(STRUCK), action=deployment.worker.kill, timeout=20.0)
    with ThreadPoolExecutor(len(STRUCK)) as pool:
        watched = {policy: pool.submit(watch, ask(client, policy), all_drafted_for.wait) for policy in STRUCK}
    deployment.worker.restart()
    deployment.worker.wait_ready(60)
    wait_for_worker(client)  # new sequences
    before = len(long.answer.tokens)
    for _ in pieces:
        pass
    return Killed({policy: each.result() for policy, each in watched.items()}, long.answer, before, trace)


@pytest.mark.parametrize("policy", STRUCK)
def test_worker_killed_mid_answer(killed: Killed, expected: list[int], policy: str) -> None:
    watched = killed.watched[policy]
    assert watched.answer.tokens == expected
    if policy != "adaptive":  # which goes on without drafts where local ones do not pay
        assert watched.answer.summary["accepted_local"] > 0, "it went on with local drafts"
    watched.assert_no_long_wait()


def test_drafting_resumes_when_the_worker_is_back(killed: Killed, expected: list[int]) -> None:
    long = killed.long
    assert long.tokens[:TOKENS] == expected
    assert len(long.tokens) > killed.tokens_before
    assert long.summary["epochs"] >= 2, "the running sequence was opened again"
    late = [origin.label for origin in long.origins[-50:]]
    assert "remote" in late, "and drafted for again"


def test_a_trace_tells_of_the_worker_that_was_killed(killed: Killed, collector: SpanReceiver) -> None:
    spans = collector.of(killed.trace.trace, {"wanspec.request", "wanspec.worker.sequence"})
    ours = [span for span in spans if span.name.startswith("wanspec.")]
    (request,) = [span for span in ours if span.name == "wanspec.request"]
    known = {span.id for span in ours} | {request.parent}
    assert all(span.parent in known for span in ours)
    events = [name for span in spans if span.name == "wanspec.round" for _, name in sorted(span.events)]
    assert "link down" in events
    assert "worker opens it" in events[events.index("link down") :]
    epochs = [s.attributes["wanspec.worker.epoch"] for s in spans if s.name == "wanspec.worker.sequence"]
    assert min(epochs) >= 2, "what the first worker did died with it"


def test_silent_wan_costs_one_deadline(deployment: Deployment, healthy: WanspecClient, expected: list[int]) -> None:
    watched = watch(ask(healthy), lambda: deployment.relay.set(state="off"))
    assert watched.answer.tokens == expected
    assert watched.answer.summary["accepted_local"] > 0
    watched.assert_no_long_wait()


def test_cut_wan_and_reconnection(deployment: Deployment, healthy: WanspecClient, expected: list[int]) -> None:
    watched = watch(ask(healthy), lambda: deployment.relay.set(state="cut"))
    assert watched.answer.tokens == expected
    watched.assert_no_long_wait()
    down = healthy.ask(PROMPTS[0], max_tokens=20, end_id=-1).result()
    assert down.tokens == expected[:20]
    assert down.summary["remote_draft_passes"] == 0, "no worker, so no remote drafts"
    deployment.relay.set(state="on")
    wait_for_worker(healthy)


def test_client_cancels_and_work_stops_in_both_regions(deployment: Deployment, healthy: WanspecClient) -> None:
    pending = healthy.ask(PROMPTS[3], max_tokens=900, end_id=-1)
    pieces = iter(pending)
    for _ in range(3):
        next(pieces)
    pending.cancel()
    time.sleep(1.0)
    bytes_before = deployment.relay.stats().down.bytes
    time.sleep(1.0)
    idle = deployment.relay.stats().down.bytes - bytes_before
    assert idle < 3_000, f"{idle} bytes of drafts still come from the worker"
    statistics = executions(deployment)
    time.sleep(0.5)
    assert executions(deployment) == statistics, "the target still works for a client that left"


def executions(deployment: Deployment) -> int:
    import tritonclient.grpc as triton

    stats = triton.InferenceServerClient(deployment.controller.grpc_endpoint).get_inference_statistics("target")
    return int(stats.model_stats[0].inference_count)
