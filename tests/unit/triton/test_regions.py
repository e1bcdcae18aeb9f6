"""What each region serves, by profile."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wanspec.errors import ConfigError
from wanspec.models import resolve
from wanspec.network.tls import CLIENT_FILES, SERVER_FILES
from wanspec.triton.command import tls_flags
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import (
    WORKER_TLS,
    RegionSettings,
    controller_repository,
    controller_stages,
    worker_repository,
)
from wanspec.triton.repository import ModelRepository

ROOT = Path(__file__).parents[3]
OWN = RegionSettings(resolve("small-target"), resolve("small-draft"))
COMPAT = RegionSettings(resolve("small-target"), resolve("small-draft"), compat=True, decoupled=True)
REFERENCE = ("prompt_table_extra_ids", "draft_input_ids", "draft_logits", "draft_acceptance_threshold", "stop")
"""Some inputs of the engine that an ensemble has no name for."""


def configs(repository: ModelRepository, folder: Path) -> dict[str, Any]:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    rendered = repository.render(folder)
    return {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in rendered.glob("*/config.pbtxt")
    }


@pytest.fixture(scope="module")
def compat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return configs(controller_repository(COMPAT, "host:1"), tmp_path_factory.mktemp("compat") / "models")


def test_without_a_profile(tmp_path: Path) -> None:
    found = configs(controller_repository(OWN, "host:1"), tmp_path / "c")
    assert found.keys() == {"target", "draft", "wanspec"}
    assert found["wanspec"].parameters["target_model"].string_value == "target"
    assert {model.name for model in found.values()} == found.keys()
    assert not found["target"].model_transaction_policy.decoupled
    assert configs(worker_repository(OWN), tmp_path / "w").keys() == {"wanspec_worker"}
    assert controller_stages(OWN) == (("target", "draft"), ("wanspec",))


def test_the_profile_renames_the_engines_and_the_endpoint_knows(compat: dict[str, Any], tmp_path: Path) -> None:
    engines, others = controller_stages(COMPAT)
    assert set(engines) == {"tensorrt_llm", "tensorrt_llm_draft", "preprocessing", "postprocessing"}
    assert set(others) == {"wanspec", "ensemble"}
    assert compat.keys() == {*engines, *others}
    assert {model.name for model in compat.values()} == compat.keys()
    endpoint = {name: value.string_value for name, value in compat["wanspec"].parameters.items()}
    assert (endpoint["target_model"], endpoint["draft_model"]) == ("tensorrt_llm", "tensorrt_llm_draft")
    assert endpoint["engines_decoupled"] == "true"
    assert compat["tensorrt_llm"].model_transaction_policy.decoupled
    assert compat["tensorrt_llm"].parameters["max_draft_len"].string_value == "32"
    worker = configs(worker_repository(COMPAT), tmp_path / "w")
    assert worker.keys() == {"wanspec_worker", "tensorrt_llm", "preprocessing"}
    assert worker["tensorrt_llm"].parameters["max_draft_len"].string_value == "0"
    assert worker["tensorrt_llm"].parameters["model_dir"].string_value == str(COMPAT.draft_dir)


def test_the_ensemble_is_wired_by_tensors_that_its_models_have(compat: dict[str, Any]) -> None:
    ensemble = compat["ensemble"]
    flowing = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    used: set[str] = set()
    for step in ensemble.ensemble_scheduling.step:
        model = compat[step.model_name]
        inputs = {tensor.name: tensor for tensor in model.input}
        for name, source in step.input_map.items():
            kind, dims = flowing[source]
            assert (inputs[name].data_type, len(inputs[name].dims)) == (kind, len(dims)), name
            used.add(source)
        required = {tensor.name for tensor in model.input if not tensor.optional}
        assert required <= step.input_map.keys()
        outputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in model.output}
        flowing |= {target: outputs[name] for name, target in step.output_map.items()}
        if step.model_name == "tensorrt_llm":
            missing = inputs.keys() - step.input_map.keys()
            assert set(REFERENCE) <= missing
    assert {tensor.name for tensor in ensemble.input} <= used
    for tensor in ensemble.output:
        assert flowing[tensor.name] == (tensor.data_type, list(tensor.dims)), tensor.name


def test_the_documentation_lists_the_tensors(compat: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for model in ("preprocessing", "postprocessing", "ensemble"):
        section = text.split(f"\n### {model}\n")[1].split("\n##")[0]
        documented = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (?:`.*?`) \|", section, re.MULTILINE))))
        declared = {tensor.name for tensor in [*compat[model].input, *compat[model].output]}
        assert documented == declared, model


def test_certificates_go_to_the_worker_and_to_the_links(tmp_path: Path) -> None:
    settings = DeploymentSettings(replace(OWN, worker_tls=str(tmp_path)))
    with pytest.raises(
        ConfigError, match=r"worker_tls: .* lacks server.crt, server.key, ca.crt, client.crt, client.key"
    ):
        Deployment(settings)
    for name in (*SERVER_FILES, *CLIENT_FILES):
        (tmp_path / name).write_text("")
    assert {*tls_flags(tmp_path)} <= {*Deployment(settings).worker._extra_args}
    assert "--grpc-use-ssl-mutual=true" in tls_flags(tmp_path)
    values = controller_repository(settings.regions, "host:1").values["wanspec"]
    assert [values[name] for name in WORKER_TLS] == [
        str(tmp_path / each) for each in ("ca.crt", "client.crt", "client.key")
    ]
    assert not any(controller_repository(OWN, "host:1").values["wanspec"][name] for name in WORKER_TLS)
