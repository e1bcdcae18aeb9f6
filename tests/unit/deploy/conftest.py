"""What `wanspec render` states, for comparison with the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from wanspec.cli.group import cli
from wanspec.triton.engine_pair import EnginePair
from wanspec.triton.launch import ServerSettings, container_shm_bytes, shm_bytes


@pytest.fixture(scope="session")
def rendered_shm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``--shm-size`` of a region's container on CPUs; of workers also where their draft is on a GPU."""

    def state(region: str) -> str:
        output = str(tmp_path_factory.mktemp("shm") / "out")
        pair = ("--target", "small-target", "--draft", "small-draft")
        options = ["--profile", "cpu", "--region", region, "--output", output, *pair, "--json"]
        found = CliRunner().invoke(cli, ["render", *options])
        return str(json.loads(found.stdout)["shm_size"])

    return state


@pytest.fixture(scope="session")
def recipe_shm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], int]:
    """The same of a controller with the engines of a recipe, in bytes."""

    def state(recipe: str) -> int:
        plan = tmp_path_factory.mktemp("plan") / "plan.json"
        plan.write_text(CliRunner().invoke(cli, ["build-engines", recipe, "--plan", "--json"]).stdout)
        pair = EnginePair.read(plan)
        server = replace(ServerSettings(Path()), shm_bytes=shm_bytes(pair))
        return container_shm_bytes(server, 1, pair.target.max_batch_size)

    return state
