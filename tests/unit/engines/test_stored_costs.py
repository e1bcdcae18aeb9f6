from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from wanspec.core.costs import CostModel, CostTable
from wanspec.engines import stored_costs
from wanspec.engines.config import EngineConfig
from wanspec.engines.stored_costs import (
    FoundCosts,
    costs_file,
    costs_or_none,
    describe_engine,
    find_costs,
    load_costs,
    store_costs,
)
from wanspec.errors import ConfigError
from wanspec.models import resolve

TABLE = CostTable((1, 4), (0, 100), ((10.0, 12.0), (13.0, 18.0)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config() -> EngineConfig:
    return EngineConfig(model_dir=str(resolve("small-draft")))


def stored(role: str, config: EngineConfig) -> CostModel:
    costs = CostModel(TABLE, TABLE, describe_engine(role, config))
    store_costs(costs)
    return costs


def test_costs_are_found_by_what_was_measured(config: EngineConfig) -> None:
    assert find_costs(describe_engine("worker", config)) == FoundCosts(None)
    costs = stored("worker", config)
    found = find_costs(describe_engine("worker", config))
    assert found == FoundCosts(costs_file(costs.engine))
    assert load_costs(str(found.path)) == load_costs(str(found.path), costs.engine) == costs
    assert find_costs(describe_engine("draft", config)) == FoundCosts(None), "another engine with the same model"


OTHERS = {
    "dtype": {"dtype": "float64"},
    "weights": {"weights": "int8"},
    "device": {"device": "cuda"},
    "threads": {"threads": 2},
    "pace_ms": {"pace_ms": 30.0},
    "pace_per_token_ms": {"pace_per_token_ms": 0.5},
}


@pytest.mark.parametrize("name", OTHERS)
def test_costs_under_other_settings_are_not_used_and_it_is_said_why(
    config: EngineConfig, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    costs = stored("worker", config)
    wanted = describe_engine("worker", replace(config, **OTHERS[name]))
    found = find_costs(wanted)
    change = f"{name} was {costs.engine[name]}, is {wanted[name]}"
    assert found.path is None
    assert change in found.reason
    assert found.reason in caplog.text
    with pytest.raises(ConfigError, match=rf"was measured on another engine \(.*{change}.*: calibrate again"):
        load_costs(costs_file(costs.engine), wanted)
    assert costs_or_none(costs_file(costs.engine), wanted) is None
    assert f"costs are not used: {costs_file(costs.engine)}: was measured on another engine" in caplog.text


def test_a_pace_counts_as_it_is_stretched(config: EngineConfig) -> None:
    paced = describe_engine("worker", replace(config, pace_ms=30.0, time_scale=2.0))
    assert paced["pace_ms"] == "60"
    assert paced == describe_engine("worker", replace(config, pace_ms=60.0))


@pytest.mark.parametrize("part", ["processor_name", "_torch_version"])
def test_another_machine_or_program_is_another_engine(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    stored("worker", config)
    monkeypatch.setattr(stored_costs, part, lambda: "another")
    assert "is another" in find_costs(describe_engine("worker", config)).reason


def test_a_model_that_was_trained_on_is_another(config: EngineConfig, tmp_path: Path) -> None:
    folder = tmp_path / Path(config.model_dir).name
    shutil.copytree(config.model_dir, folder)
    stored("worker", config)
    assert find_costs(describe_engine("worker", replace(config, model_dir=str(folder)))).path is not None
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    reason = find_costs(describe_engine("worker", replace(config, model_dir=str(folder)))).reason
    assert "model was small-draft:" in reason


def test_files_that_cannot_be_used_are_ignored_with_a_line_in_the_log(
    config: EngineConfig, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    costs = stored("worker", config)
    path = costs_file(costs.engine)
    assert costs_or_none("", costs.engine) is None
    assert caplog.text == ""
    assert costs_or_none(path, costs.engine) == costs
    assert f"costs measured on {dict(costs.engine)}" in caplog.text
    path.write_text("nonsense", encoding="utf-8")
    assert costs_or_none(path, costs.engine) is None
    assert f"costs are not used: {path}: cannot be used as measured costs: costs: JSONDecodeError" in caplog.text
    assert "JSONDecodeError" in find_costs(costs.engine).reason
    assert costs_or_none(cache / "nowhere", costs.engine) is None
    with pytest.raises(ConfigError, match="nowhere: cannot be used"):
        load_costs(cache / "nowhere")
    monkeypatch.setenv("WANSPEC_CACHE", str(path))
    with pytest.raises(ConfigError, match="WANSPEC_CACHE"):
        store_costs(costs)
