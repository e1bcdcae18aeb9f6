"""One real server for all tests: the small pair, and a tiny model behind an engine with faults to choose from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.integration.quick import QuickServer
from wanspec.models import resolve
from wanspec.triton.repository import ModelRepository, region_folder
from wanspec.triton.server import TritonServer

SETTINGS = {
    "engine": "torch",
    "dtype": "float64",
    "weights": "same",
    "device": "cpu",
    "threads": 1,
    "pace_ms": 1,
    "time_scale": 1,
    "max_input_len": 0,
    "max_seq_len": 0,
    "kv_tokens": 0,
    "vocab_size": 4096,
    "agreement": 1,
    "shared_gpu": "",
    "exclude_input_in_output": "true",
    "triton_max_batch_size": 16,
    "max_batch_size": 0,
}


def save_tiny_llama(folder: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def templates(folder: Path) -> Path:
    """The controller's ``target`` and ``draft``, and the model with faults."""
    for model in ("target", "draft"):
        shutil.copytree(region_folder("controller") / model, folder / model)
    shutil.copytree(folder / "target", folder / "faulty")
    shutil.copy(Path(__file__).with_name("faulty_model.py"), folder / "faulty" / "1" / "model.py")
    return folder


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("conformance")
    tiny = {"model_dir": str(save_tiny_llama(folder / "tiny")), "max_draft_len": 4, "decoupled": "true"}
    target = {"pace_ms": 0, "model_dir": str(resolve("small-target")), "max_draft_len": 8, "decoupled": "false"}
    draft = {"pace_ms": 2, "model_dir": str(resolve("small-draft")), "max_draft_len": 0, "decoupled": "true"}
    values = {"target": SETTINGS | target, "draft": SETTINGS | draft, "faulty": SETTINGS | tiny}
    repository = ModelRepository(templates(folder / "templates"), values)
    # Each load and each probe holds an HTTP thread: three models need more than a small machine has by default.
    more = ("--http-thread-count=8",)
    with QuickServer(repository, name="conformance", log_dir=folder, extra_args=more) as server:
        server.wait_ready(120)
        yield server
