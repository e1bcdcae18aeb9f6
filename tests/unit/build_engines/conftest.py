"""A pair, its recipe, and the stand-ins for tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.build_engines.engine_doubles import RECIPE, Tools, write_folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_folder(tmp_path / "hf" / "target"), write_folder(tmp_path / "hf" / "draft", shape={"hidden_size": 32})


@pytest.fixture
def recipe_file(tmp_path: Path, pair: tuple[Path, Path]) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(RECIPE.format(target=pair[0], draft=pair[1]))
    return file


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(tmp_path, monkeypatch.setenv)
