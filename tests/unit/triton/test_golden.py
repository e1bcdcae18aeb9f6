"""Every rendered config.pbtxt as it was: what a change does to a deployment is seen as a difference of text.

To accept a change: ``WANSPEC_WRITE_GOLDEN=1 pytest tests/unit/triton/test_golden.py``, then read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.triton.engine_pairs import engine_pair
from wanspec.models import resolve
from wanspec.triton.engine_repository import Placement, engine_repository, worker_engine_repository
from wanspec.triton.regions import RegionSettings, controller_repository, worker_repository
from wanspec.triton.repository import ModelRepository
from wanspec.triton.worker_draft import WorkerDraft

GOLDEN = Path(__file__).parent / "golden"
PLACES = {"/models/target": resolve("small-target"), "/models/draft": resolve("small-draft")}
OWN = RegionSettings(*PLACES.values())
COMPAT = RegionSettings(*PLACES.values(), compat=True, decoupled=True)
REPOSITORIES: dict[str, Callable[[], ModelRepository]] = {
    "cpu-controller": lambda: controller_repository(OWN, "worker:8001"),
    "cpu-worker": lambda: worker_repository(OWN),
    "cpu-compat-controller": lambda: controller_repository(COMPAT, "worker:8001"),
    "tensorrt-llm-controller": lambda: engine_repository(OWN, engine_pair(), "worker:8001", Placement()),
    "tensorrt-llm-worker": lambda: worker_engine_repository(
        replace(OWN, worker_draft=WorkerDraft("triton")), engine_pair(), Placement()
    ),
}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_change_of_what_is_rendered_is_seen(name: str, tmp_path: Path) -> None:
    folder = REPOSITORIES[name]().render(tmp_path / "models")
    rendered = {file.parent.name: _portable(file.read_text()) for file in folder.glob("*/config.pbtxt")}
    if os.environ.get("WANSPEC_WRITE_GOLDEN") == "1":
        _write(GOLDEN / name, rendered)
    kept = {file.stem: file.read_text() for file in (GOLDEN / name).glob("*.pbtxt")}
    assert rendered.keys() == kept.keys()
    for model, text in rendered.items():
        assert text.splitlines() == kept[model].splitlines(), f"{name}/{model}: {__doc__}"


def _portable(text: str) -> str:
    for place, folder in PLACES.items():
        text = text.replace(str(folder), place)
    return text


def _write(folder: Path, rendered: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.pbtxt"):
        old.unlink()
    for model, text in rendered.items():
        (folder / f"{model}.pbtxt").write_text(text)
