"""Real deployments: two Triton servers and a relay, started once for all tests that share their settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.quick import QuickDeployment
from wanspec.models import resolve
from wanspec.network.shape import LinkShape
from wanspec.telemetry.receiver import SpanReceiver
from wanspec.telemetry.settings import TraceSettings
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import EngineSettings, RegionSettings

LINK_TIMEOUT_S = 30.0


@pytest.fixture(scope="session")
def small_regions() -> RegionSettings:
    """The small pair in float64, where equality with target-only output is strict. More than 16 requests queue."""
    float64 = EngineSettings(dtype="float64")
    return RegionSettings(
        resolve("small-target"), resolve("small-draft"), float64, float64, float64, max_sequences=16, max_queue=128
    )


@pytest.fixture(scope="session")
def collector() -> Iterator[SpanReceiver]:
    """Takes the traces of the small pair."""
    with SpanReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def small(
    small_regions: RegionSettings, collector: SpanReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    regions = replace(small_regions, traces=TraceSettings(collector.url, slow_ms=0.0))
    settings = DeploymentSettings(regions, LinkShape(), log_dir=tmp_path_factory.mktemp("logs"))
    with QuickDeployment(settings) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def links_that_worked() -> set[tuple[int | None, int, int]]:
    """Of the small pair: with which worker, and which connections of the relay, a request was drafted for."""
    return set()


@pytest.fixture
def client(small: Deployment, links_that_worked: set[tuple[int | None, int, int]]) -> WanspecClient:
    """A client of the small pair, with the link up and without delay."""
    small.relay.set(delay_ms=0.0, jitter_ms=0.0, state="on")
    client = WanspecClient(small.controller.grpc_endpoint, timeout_s=60.0)
    if link_of(small) not in links_that_worked:
        wait_for_worker(client)
        links_that_worked.add(link_of(small))
    return client


def link_of(deployment: Deployment) -> tuple[int | None, int, int]:
    """What changes where the link breaks or comes back."""
    stats = deployment.relay.stats()
    return deployment.worker.pid, stats.opened, stats.open


def wait_for_worker(client: WanspecClient) -> None:
    """Return once a request is drafted for by the worker."""
    deadline = time.monotonic() + LINK_TIMEOUT_S
    while time.monotonic() < deadline:
        answer = client.ask([1, 2, 3], max_tokens=8, policy="remote_sync", end_id=-1).result()
        if answer.summary["remote_draft_passes"] > 0:
            return
        time.sleep(0.2)
    raise AssertionError(f"no drafts from the worker within {LINK_TIMEOUT_S:g} s")


@pytest.fixture(scope="session")
def smollm2_target() -> Path:
    """SmolLM2-135M-Instruct; downloaded and converted once."""
    return resolve("smollm2-135m-instruct")
