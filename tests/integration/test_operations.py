"""Load, clients that misbehave, and switches, on running servers: exact, complete, and nothing left."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.integration.prompts import PROMPTS
from wanspec.cli.group import cli
from wanspec.core.policies import POLICIES
from wanspec.errors import InvalidRequestError, RequestCancelledError
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment
from wanspec.triton.engine_metrics import BLOCKS
from wanspec.triton.server import TritonServer
from wanspec.triton.watchdog import SHARED_MEMORY, children_of

DOCS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
REQUESTS, AT_ONCE = 200, 64
TOKENS, LONG, ROUNDS = 8, 600, 6
UNREAD = 400
"""Tokens of a stream that nobody reads: more bytes than the 64 KiB that gRPC lets a sender have under way."""
BAD: tuple[dict[str, Any], ...] = (
    {"max_tokens": 0},
    {"max_tokens": 5_000},
    {"policy": "magic"},
    {"policy": "wanspec", "policy_parameters": {"k": 0}},
    {"deadline_ms": -1.0},
)
LIMIT_S = 20.0


def until(holds: Callable[[], bool], says: Callable[[], object] = str) -> None:
    """Wait; ``says`` tells what is instead where it is not in time."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s: {says()}"
        time.sleep(0.02)


@contextmanager
def unread_stream(deployment: Deployment) -> Iterator[None]:
    """Over gRPC, a client that asks for a long stream and takes nothing of it beyond what its buffers do."""
    request = service_pb2.ModelInferRequest(model_name="wanspec")
    for name, kind, data in (
        ("input_ids", "INT32", (7).to_bytes(4, "little")),
        ("max_tokens", "INT32", (UNREAD).to_bytes(4, "little")),
        ("end_id", "INT32", (-1).to_bytes(4, "little", signed=True)),
        ("stream", "BOOL", b"\1"),
    ):
        tensor = request.inputs.add(name=name, datatype=kind)
        tensor.shape.extend([1, 1])
        request.raw_input_contents.append(data)
    leaving = threading.Event()

    def requests() -> Iterator[service_pb2.ModelInferRequest]:
        yield request
        leaving.wait(120.0)

    with grpc.insecure_channel(deployment.controller.grpc_endpoint) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
        try:
            yield
        finally:
            leaving.set()
            call.cancel()


@contextmanager
def unread_events(deployment: Deployment) -> Iterator[None]:
    """The same over HTTP, of a client with hardly any buffer."""
    body = json.dumps({"input_ids": [7], "max_tokens": UNREAD, "end_id": -1, "stream": True})
    head = f"POST /v2/models/wanspec/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        client.connect(("127.0.0.1", deployment.controller.ports.http))
        client.sendall((head + body).encode())
        yield


def kv_blocks(server: TritonServer) -> dict[str, int]:
    """KV cache blocks that requests hold, by model, as Triton's Prometheus endpoint says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports.metrics}/metrics", timeout=10) as answer:
        found = re.findall(rf"^{BLOCKS}{{(.*used.*)}} (\S+)$", answer.read().decode(), re.M)
    return {re.findall('model="(.*?)"', labels)[0]: int(float(value)) for labels, value in found}


class Server:
    """What a server holds of the machine."""

    def __init__(self, server: TritonServer) -> None:
        assert server.pid is not None
        self._pids = children_of(server.pid)
        assert self._pids
        self._prefix = server.shm_prefix

    def threads(self) -> list[int]:
        """Of each model's process. Triton's own comes and goes with gRPC's threads."""
        return [len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self._pids]

    def shared_memory(self) -> dict[str, int]:
        """Bytes by region."""
        return {path.name: path.stat().st_size for path in SHARED_MEMORY.glob(f"{self._prefix}*")}

    def held(self) -> tuple[list[int], dict[str, int]]:
        return self.threads(), self.shared_memory()


class Load:
    """Requests of every kind, and what became of each."""

    def __init__(self, client: WanspecClient, expected: dict[str, list[int]]) -> None:
        self._client = client
        self._expected = expected
        self.ends: Counter[str] = Counter()

    def run(self, numbers: range) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self.ends.update(pool.map(self._ask, numbers))

    def _ask(self, number: int) -> str:
        draw = random.Random(number)
        prompt, policy = draw.choice(PROMPTS), draw.choice((None, *POLICIES))
        kind = "bad" if number % 10 == 3 else "cancelled" if number % 10 == 7 else "good"
        if kind == "bad":
            with pytest.raises(InvalidRequestError):
                self._client.ask(prompt, **draw.choice(BAD)).result()
            return kind
        options: dict[str, Any] = {"end_id": -1, "stream": draw.random() < 0.7, "event_log": draw.random() < 0.2}
        pending = self._client.ask(prompt, policy=policy, max_tokens=900 if kind == "cancelled" else TOKENS, **options)
        if kind == "cancelled":
            threading.Timer(draw.uniform(0.0, 1.0), pending.interrupt).start()
            with pytest.raises(RequestCancelledError):
                pending.result()
            return kind
        assert pending.result().tokens == self._expected[prompt], (number, policy)
        return kind


@pytest.fixture(scope="module")
def expected(small: Deployment) -> dict[str, list[int]]:
    client = WanspecClient(small.controller.grpc_endpoint, timeout_s=60.0)

    def ask(prompt: str) -> list[int]:
        return client.ask(prompt, max_tokens=TOKENS, policy="target_only", end_id=-1).result().tokens

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(PROMPTS, pool.map(ask, PROMPTS), strict=True))


def idle(client: WanspecClient) -> bool:
    state = client.control()
    return not (state["running"] or state["waiting"] or state["reserved_tokens"])


def drafts_bytes(deployment: Deployment) -> int:
    """What comes from the worker in half a second; pings are a few hundred bytes."""
    before = deployment.relay.stats().down.bytes
    time.sleep(0.5)
    return deployment.relay.stats().down.bytes - before


@pytest.fixture
def switchable(client: WanspecClient) -> Iterator[WanspecClient]:
    """The endpoint's client; its switches are put back."""
    yield client
    client.control({"speculation": "remote", "policy": "adaptive"})


def test_mixed_load_is_exact_and_leaves_nothing(
    small: Deployment, switchable: WanspecClient, expected: dict[str, list[int]]
) -> None:
    """200 requests, 64 at once where 16 decode; some leave, some are wrong, two clients read nothing of their streams,
    and the switches are thrown all the while.
    """
    client, load = switchable, Load(switchable, expected)
    before = client.control()["totals"]["ended"]
    load.run(range(AT_ONCE))  # whatever grows with the number of requests at once has grown
    until(lambda: idle(client))
    servers = [Server(small.controller), Server(small.worker)]
    held = [each.held() for each in servers]
    with unread_stream(small), unread_events(small), ThreadPoolExecutor(1) as pool:
        until(lambda: client.control()["running"] == 2)
        until(lambda: kv_blocks(small.worker)["wanspec_worker"] > 0)
        running = pool.submit(load.run, range(AT_ONCE, REQUESTS))
        waited = 0
        for speculation in ("local", "shadow", "off", "shadow", "remote") * 100:
            waited = max(waited, client.control({"speculation": speculation})["waiting"])
            if running.done():
                break
            time.sleep(0.3)
        running.result()
        until(lambda: idle(client))  # those that nobody reads have been decoded too
    ended = Counter(client.control()["totals"]["ended"])
    ended.subtract(before)
    assert load.ends == {"good": 160, "cancelled": 20, "bad": 20}
    assert waited > AT_ONCE // 2, "they queued"
    assert (ended["length"], ended["busy"], ended["error"]) == (162, 0, 0)
    assert ended["cancelled"] <= 20
    until(lambda: [each.held() for each in servers] == held, lambda: (held, [each.held() for each in servers]))
    assert drafts_bytes(small) < 1_500, "the worker has closed all sequences"
    until(lambda: kv_blocks(small.controller) == {"target": 0, "draft": 0}, lambda: kv_blocks(small.controller))
    until(lambda: kv_blocks(small.worker) == {"wanspec_worker": 0}, lambda: kv_blocks(small.worker))


def rounds_from_now(client: WanspecClient, rounds: int) -> dict[str, Any]:
    """The totals once so many rounds more have been."""
    least = client.control()["totals"]["rounds"] + rounds
    until(lambda: client.control()["totals"]["rounds"] >= least)
    totals: dict[str, Any] = client.control()["totals"]
    return totals


def test_a_running_answer_follows_the_switches_and_stays_exact(small: Deployment, switchable: WanspecClient) -> None:
    client = switchable
    client.control({"policy": "remote_sync"})
    reference = client.ask(PROMPTS[3], max_tokens=LONG, end_id=-1, policy="target_only").result().tokens
    pending = client.ask(PROMPTS[3], max_tokens=LONG, end_id=-1)
    pieces = iter(pending)
    next(pieces)
    spent: dict[str, Counter[str]] = {}
    for speculation in ("off", "local", "shadow"):
        assert client.control({"speculation": speculation})["speculation"] == speculation
        before = rounds_from_now(client, 3)  # what was under way has ended
        after = rounds_from_now(client, 3 * ROUNDS if speculation == "shadow" else ROUNDS)  # a worker has to begin
        names = ("drafted_local", "drafted_remote", "remote_draft_passes", "local_draft_passes")
        spent[speculation] = Counter({name: after[name] - before[name] for name in names})
        spent[speculation]["shadow"] = after["shadow"]["rounds"] - before["shadow"]["rounds"]
    assert spent["off"].total() == 0, spent
    assert spent["local"]["local_draft_passes"] > 0, spent
    assert spent["local"]["remote_draft_passes"] == spent["local"]["drafted_remote"] == 0, spent
    assert spent["shadow"]["remote_draft_passes"] > 0, spent
    assert spent["shadow"]["shadow"] >= ROUNDS, spent
    assert spent["shadow"]["drafted_remote"] == 0, spent
    used = client.control({"speculation": "remote"})["totals"]["drafted_remote"]
    until(lambda: client.control()["totals"]["drafted_remote"] > used)
    for _ in pieces:
        pass
    assert pending.answer.tokens == reference
    summary = pending.answer.summary
    assert summary["policy"] == "remote_sync"
    assert summary["drafted_remote"] > 0
    assert summary["shadow"]["tokens"] >= summary["shadow"]["rounds"] >= ROUNDS
    assert summary["epochs"] >= 2


def test_the_command_and_http_reach_the_switches(small: Deployment, switchable: WanspecClient) -> None:
    url = small.controller.grpc_endpoint
    done = CliRunner().invoke(cli, ["control", "--url", url, "--policy", "local", "--set", "k=4", "--json"])
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["policy"], json.loads(done.stdout)["policy_parameters"]) == ("local", {"k": 4})
    assert switchable.ask(PROMPTS[0], max_tokens=8).result().summary["policy"] == "local"
    shown = CliRunner().invoke(cli, ["control", "--url", url])
    assert "local (k=4)" in shown.stdout
    wrong = CliRunner().invoke(cli, ["control", "--url", url, "--set", "k=99"])
    assert (wrong.exit_code, "--set k: 99 is outside 1 to 32" in wrong.stderr) == (1, True)
    for language, code in re.findall(r"```(bash)\n(curl .*?)```", DOCS, re.S):
        assert language == "bash"
        code = code.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{small.controller.ports.http}")
        ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert json.loads(json.loads(ran.stdout)["state"])["limits"]["sequences"] == 16, ran.stdout
