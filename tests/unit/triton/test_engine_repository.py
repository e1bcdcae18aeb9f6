"""Repositories of the profile tensorrt-llm, parsed as Triton parses them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.triton.engine_pairs import engine_pair
from wanspec.errors import ConfigError
from wanspec.models import resolve
from wanspec.triton.engine_pair import EnginePair
from wanspec.triton.engine_repository import (
    Placement,
    contract_tensors,
    engine_repository,
    gpus_of,
    worker_engine_repository,
)
from wanspec.triton.regions import RegionSettings, controller_repository
from wanspec.triton.repository import ModelRepository, region_folder
from wanspec.triton.worker_draft import WorkerDraft

SETTINGS = RegionSettings(resolve("small-target"), resolve("small-draft"))
RAGGED = {
    *("input_ids", "encoder_input_features", "draft_input_ids", "draft_logits", "decoder_input_ids"),
    *("stop_words_list", "bad_words_list", "embedding_bias", "prompt_embedding_table", "prompt_table_extra_ids"),
    *("cross_attention_mask", "skip_cross_attn_blocks", "lora_weights", "lora_config", "context_phase_params"),
    *("retention_token_range_starts", "retention_token_range_ends", "retention_token_range_priorities"),
    *("retention_token_range_durations_ms", "retention_decode_priority", "retention_decode_duration_ms"),
    *("guided_decoding_guide_type", "guided_decoding_guide", "lookahead_window_size", "lookahead_ngram_size"),
    "lookahead_verification_set_size",
}
"""Inputs with ragged batches in NVIDIA's own configuration."""

GOLDEN = {
    "gpt_model_type": "inflight_fused_batching",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "gpu_device_ids": "0",
    "max_beam_width": "1",
    "batch_scheduler_policy": "guaranteed_no_evict",
    "enable_kv_cache_reuse": "true",
    "enable_chunked_context": "false",
    "normalize_log_probs": "false",
    "exclude_input_in_output": "true",
    "cancellation_check_period_ms": "10",
    "stats_check_period_ms": "100",
}
TARGET = GOLDEN | {
    "gpt_model_path": "/engines/target/engine",
    "kv_cache_free_gpu_mem_fraction": "0.842",
    "max_tokens_in_paged_kv_cache": "400000",
}
DRAFT = GOLDEN | {
    "gpt_model_path": "/engines/draft/engine",
    "kv_cache_free_gpu_mem_fraction": "0.014",
    "max_tokens_in_paged_kv_cache": "32768",
}


def configs(repository: ModelRepository, folder: Path) -> dict[str, Any]:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    rendered = repository.render(folder)
    assert "${" not in "".join(file.read_text() for file in rendered.glob("*/config.pbtxt"))
    return {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for path in rendered.glob("*/config.pbtxt")
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    repository = engine_repository(SETTINGS, engine_pair(), "worker:8001", Placement())
    return configs(repository, tmp_path_factory.mktemp("engines") / "models")


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return configs(controller_repository(SETTINGS, "worker:8001"), tmp_path_factory.mktemp("cpu") / "models")


def parameters(model: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in model.parameters.items()}


def test_the_engines_parameters(rendered):
    assert parameters(rendered["target"]) == TARGET
    assert parameters(rendered["draft"]) == DRAFT


def test_the_engines_headers(rendered):
    for name in ("target", "draft"):
        model = rendered[name]
        assert (model.name, model.backend, model.max_batch_size) == (name, "tensorrtllm", 16)
        assert not model.model_transaction_policy.decoupled
        assert list(model.dynamic_batching.preferred_batch_size) == [16]
        assert [(group.count, group.kind) for group in model.instance_group] == [(1, 2)]  # KIND_CPU


def test_the_tensors_are_those_of_our_engines(rendered, cpu):
    def described(tensors):
        return [
            (t.name, t.data_type, list(t.dims), t.HasField("reshape"), getattr(t, "optional", None)) for t in tensors
        ]

    for name in ("target", "draft"):
        assert described(rendered[name].input) == described(cpu[name].input)
        assert described(rendered[name].output) == described(cpu[name].output)
    assert len(rendered["target"].input) > 50
    assert {t.name for t in rendered["target"].input if not t.optional} == {"input_lengths", "request_output_len"}


def test_ragged_batches_are_nvidias(rendered):
    assert {t.name for t in rendered["target"].input if t.allow_ragged_batch} == RAGGED


def test_the_endpoint_is_that_of_the_cpu_profile_but_for_what_the_engines_ask(rendered, cpu):
    mine, theirs = parameters(rendered["wanspec"]), parameters(cpu["wanspec"])
    changed = {name: value for name, value in mine.items() if value != theirs[name]}
    assert changed == {
        "context": "512",
        "max_draft_len": "8",
        "sampling": "tensorrt_llm",
        "padded_vocab_size": "4096",
        "max_sequences": "16",  # as many as the target's engine batches
        "engine_threads": "16",
        "max_reserved_tokens": "400000",  # its KV cache
    }
    assert (mine["target_model"], mine["draft_model"], mine["engines_decoupled"]) == ("target", "draft", "false")
    rest = {name for name in rendered if name not in ("target", "draft")}
    assert rest == {"wanspec"}


def test_without_a_local_draft(tmp_path):
    found = configs(engine_repository(SETTINGS, engine_pair(local_draft=False), "", Placement()), tmp_path / "m")
    assert found.keys() == {"target", "wanspec"}
    assert parameters(found["wanspec"])["draft_model"] == ""
    assert float(parameters(found["target"])["kv_cache_free_gpu_mem_fraction"]) < 0.842


def test_engines_on_gpus_of_their_own_do_not_share_memory(tmp_path):
    pair = engine_pair(tensor_parallel=2)
    placement = Placement((0, 1), (2,))
    found = configs(engine_repository(SETTINGS, pair, "", placement), tmp_path / "m")
    target, draft = parameters(found["target"]), parameters(found["draft"])
    assert (target["gpu_device_ids"], draft["gpu_device_ids"]) == ("0,1", "2")
    for engine, loaded, per_token in ((target, 17, 131_072), (draft, 4, 32_768)):
        wanted = (0.95 * 80 - loaded) * 2**30
        tokens = int(engine["max_tokens_in_paged_kv_cache"])
        assert 0 <= wanted - tokens * per_token < 128 * per_token
        share = float(engine["kv_cache_free_gpu_mem_fraction"])
        assert share == pytest.approx(wanted / 2**30 / (80 - loaded), abs=2e-3)
    endpoint = parameters(found["wanspec"])
    assert endpoint["max_reserved_tokens"] == target["max_tokens_in_paged_kv_cache"]
    assert gpus_of(pair, placement) == (0, 1, 2)
    assert gpus_of(pair, Placement()) == (0, 1)


def test_the_draft_is_on_the_targets_first_gpu_by_default(tmp_path):
    pair, placement = engine_pair(tensor_parallel=2), Placement((3, 2))
    found = configs(engine_repository(SETTINGS, pair, "", placement), tmp_path / "m")
    assert parameters(found["draft"])["gpu_device_ids"] == "3"
    assert parameters(found["draft"])["max_tokens_in_paged_kv_cache"] == "32768"  # shared
    assert gpus_of(pair, placement) == (2, 3)


def test_a_worker_with_the_drafts_engine_beside_it(tmp_path):
    settings = replace(SETTINGS, worker_draft=WorkerDraft("triton"))
    found = configs(worker_engine_repository(settings, engine_pair(), Placement((), (1,))), tmp_path / "m")
    assert found.keys() == {"wanspec_worker", "draft"}
    alone = parameters(found["draft"])
    assert alone["gpt_model_path"] == "/engines/draft/engine"
    assert alone["gpu_device_ids"] == "1"
    assert int(alone["max_tokens_in_paged_kv_cache"]) > 2_000_000
    assert alone.keys() == DRAFT.keys()
    assert found["draft"].backend == "tensorrtllm"
    worker = parameters(found["wanspec_worker"])
    assert (worker["engine"], worker["draft_model"], worker["decoupled"]) == ("triton", "draft", "false")


def test_the_experiment_is_a_flag(tmp_path):
    found = configs(
        engine_repository(replace(SETTINGS, sampling="logits"), engine_pair(), "", Placement()), tmp_path / "m"
    )
    assert parameters(found["wanspec"])["sampling"] == "logits"


@pytest.mark.parametrize("gpus", [(0,), (0, 0), (0, 1, 2)])
def test_as_many_gpus_as_ranks(gpus):
    with pytest.raises(ConfigError, match=r"target_gpus: .* must be 2 different GPUs"):
        engine_repository(SETTINGS, engine_pair(tensor_parallel=2), "", Placement(gpus))


def test_a_context_longer_than_the_model(tmp_path):
    pair = engine_pair().model_copy(update={"context": 2000})
    with pytest.raises(ConfigError, match="context: 2000 tokens are above the target's limit"):
        engine_repository(SETTINGS, pair, "", Placement())


def test_engines_that_do_not_fit():
    pair = engine_pair().model_copy(update={"gpu_memory": 24 << 30})
    with pytest.raises(ConfigError, match="the target does not fit into H100-80GB"):
        pair.kv_fractions()


def test_the_contracts_own_file_is_read():
    text = contract_tensors(region_folder("controller") / "target" / "config.pbtxt")
    assert len(re.findall(r'name: "', text)) > 75
    with pytest.raises(ConfigError, match="has 0 lists of tensors"):
        contract_tensors(region_folder("tensorrt_llm") / "engine" / "config.pbtxt")


def test_a_description_is_read_back(tmp_path):
    pair = engine_pair()
    pair.write(tmp_path)
    assert EnginePair.read(tmp_path) == pair == EnginePair.read(tmp_path / "engines.json")
    (tmp_path / "plan.json").write_text(json.dumps({"steps": [], "engines": pair.model_dump()}))
    assert EnginePair.read(tmp_path / "plan.json") == pair


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read .*engines.json: No such file"),
        ("{", "is not JSON"),
        ("[]", "the whole: Input should be"),
        ('{"name": "x"}', "tensorrt_llm: Field required"),
    ],
)
def test_a_description_that_is_none(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "engines.json").write_text(content)
    with pytest.raises(ConfigError, match=f"engines: .*{problem}"):
        EnginePair.read(tmp_path)
