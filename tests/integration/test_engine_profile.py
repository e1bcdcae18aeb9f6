"""The profile tensorrt-llm, as far as a machine without TensorRT-LLM goes: our own models of it, in a real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.integration.quick import QuickServer
from tests.unit.triton.engine_pairs import engine_pair
from wanspec.models import resolve
from wanspec.triton.engine_repository import Placement, engine_repository, worker_engine_repository
from wanspec.triton.regions import RegionSettings
from wanspec.triton.worker_draft import WorkerDraft

OURS = ("wanspec", "wanspec_worker")
NOBODY = "127.0.0.1:1"


def test_the_python_models_load(tmp_path: Path) -> None:
    """Endpoint and worker in one server, which costs half; the engines' own models are of a backend it lacks."""
    settings = RegionSettings(resolve("small-target"), resolve("small-draft"))
    chain = replace(settings, worker_draft=WorkerDraft("triton"))
    models = tmp_path / "models"
    models.mkdir()
    for name, repository in zip(
        OURS,
        (
            engine_repository(settings, engine_pair(), NOBODY, Placement()),
            worker_engine_repository(chain, engine_pair(), Placement()),
        ),
        strict=True,
    ):
        (repository.render(tmp_path / f"of-{name}") / name).rename(models / name)
    with QuickServer(models, name="profile", stages=[OURS], log_dir=tmp_path) as server:
        server.wait_ready(60.0)
        assert set(server.models) == set(OURS)
