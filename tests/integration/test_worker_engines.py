"""Workers that draft by other engines than their own process's PyTorch, and the experiment of returned logits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.doubles.engines import DOUBLES, write_engine
from tests.integration.conftest import LINK_TIMEOUT_S
from tests.integration.prompts import PROMPTS
from tests.integration.quick import QuickDeployment, QuickServer
from wanspec.errors import ServerError
from wanspec.models.folders import read_json
from wanspec.network.ports import reserve_ports
from wanspec.network.shape import LinkShape
from wanspec.triton.client import Answer, WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import RegionSettings, controller_repository, worker_repository
from wanspec.triton.repository import ModelRepository, region_folder
from wanspec.triton.worker_draft import WorkerDraft

TOKENS = 20


def with_double(repository: ModelRepository, folder: Path) -> ModelRepository:
    """The worker finds TensorRT-LLM's double. Triton's stub ignores PYTHONPATH."""
    template = folder / "wanspec_worker"
    shutil.copytree(region_folder("worker") / "wanspec_worker", template)
    model = template / "1" / "model.py"
    model.write_text(f"import sys\n\nsys.path.insert(0, {str(DOUBLES)!r})\n{model.read_text()}")
    return replace(repository, templates={"wanspec_worker": template})


@pytest.fixture(scope="module")
def deployment(small_regions: RegionSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A worker on TensorRT-LLM's double, behind the relay, and one in the controller's server, by its draft's chain."""
    folder, draft, port = tmp_path_factory.mktemp("engines"), small_regions.draft_dir, free_port()
    columns = read_json(draft / "config.json")["vocab_size"]
    engine = write_engine(folder / "engine", draft, columns + 64, max_seq_len=512)
    regions = replace(
        small_regions,
        worker=replace(small_regions.worker, device="cuda"),
        worker_draft=WorkerDraft("tensorrt_llm", engine_dir=str(engine)),
        sampling="logits",
    )
    chain = worker_repository(replace(small_regions, worker_draft=WorkerDraft("triton"))).values["wanspec_worker"]

    def with_chain(settings: RegionSettings, urls: str) -> ModelRepository:
        base = controller_repository(settings, f"{urls},127.0.0.1:{port}")
        templates = {**base.templates, "wanspec_worker": region_folder("worker") / "wanspec_worker"}
        return replace(base, values={**base.values, "wanspec_worker": chain}, templates=templates)

    started = QuickDeployment(DeploymentSettings(regions, LinkShape(), grpc_port=port, log_dir=folder / "logs"))
    started.worker = QuickServer(
        with_double(worker_repository(regions), folder), name="worker", log_dir=folder / "logs"
    )
    with pytest.MonkeyPatch.context() as patch:
        stages = ("target", "draft"), ("wanspec_worker", "wanspec")
        patch.setattr("wanspec.triton.deployment.controller_repository", with_chain)
        patch.setattr("wanspec.triton.deployment.controller_stages", lambda _: stages)
        started.start()
    with started:
        yield started


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> WanspecClient:
    client = WanspecClient(deployment.controller.grpc_endpoint, timeout_s=60.0)
    wait_for_links(client, 2)
    return client


def wait_for_links(client: WanspecClient, count: int) -> None:
    deadline = time.monotonic() + LINK_TIMEOUT_S
    links: list[str] = []
    while time.monotonic() < deadline:
        links = client.control()["links"]
        if links.count("up") == count:
            return
        time.sleep(0.05)
    raise AssertionError(f"not {count} links within {LINK_TIMEOUT_S:g} s: {links}")


def free_port() -> int:
    with reserve_ports(1) as (port,):
        return port


def ask_all(client: WanspecClient, policy: str, temperature: float) -> list[Answer]:
    pending = [
        client.ask(prompt, max_tokens=TOKENS, policy=policy, end_id=-1, temperature=temperature, seed=11)
        for prompt in PROMPTS[:4]
    ]
    return [each.result() for each in pending]


@pytest.fixture(scope="module")
def references(client: WanspecClient) -> dict[float, list[Answer]]:
    return {temperature: ask_all(client, "target_only", temperature) for temperature in (0.0, 0.5)}


def check(client: WanspecClient, references: dict[float, list[Answer]], policies: tuple[str, ...]) -> None:
    """Output equals target-only output. Above temperature 0 the controller draws, from logits that come back."""
    for temperature, reference in references.items():
        for policy in policies:
            answers = ask_all(client, policy, temperature)
            assert [answer.tokens for answer in answers] == [answer.tokens for answer in reference]
            if policy == "remote_sync":
                assert sum(answer.summary["remote_draft_passes"] for answer in answers) >= len(answers)
                assert sum(answer.summary["accepted_remote"] for answer in answers) > len(answers)
                assert not any(answer.summary["desyncs"] for answer in answers)


def test_output_equals_target_only(client: WanspecClient, references: dict[float, list[Answer]]) -> None:
    check(client, references, ("remote_sync", "adaptive", "local"))


def test_a_call_that_nobody_waits_for_is_stopped(client: WanspecClient, deployment: Deployment) -> None:
    """A local draft of 32 tokens takes longer than the request may."""
    with pytest.raises(ServerError, match="deadline_ms"):
        client.ask(
            PROMPTS[0], max_tokens=64, policy="local", policy_parameters={"k": 32}, deadline_ms=25.0, end_id=-1
        ).result()
    again = client.ask(PROMPTS[0], max_tokens=TOKENS, policy="target_only", end_id=-1).result()
    assert len(again.tokens) == TOKENS
    assert deployment.settings.log_dir is not None
    log = "".join(file.read_text(errors="replace") for file in deployment.settings.log_dir.rglob("*.log"))
    assert "loaded" in log
    for fault in ("could not be stopped", "engine call failed", "draft pass failed", "Traceback"):
        assert fault not in log


def test_a_chain_alone(client: WanspecClient, deployment: Deployment, references: dict[float, list[Answer]]) -> None:
    """The relay is off: what is left is the worker in the controller's own server."""
    deployment.relay.set(state="off")
    wait_for_links(client, 1)
    check(client, references, ("remote_sync",))
