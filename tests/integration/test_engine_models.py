"""``target`` and ``draft`` on a real Triton: TensorRT-LLM's tensors over gRPC."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from transformers import LlamaConfig, LlamaForCausalLM
from tritonclient.utils import InferenceServerException

from wanspec.triton.repository import ModelRepository, region_folder
from wanspec.triton.server import TritonServer

OUTPUTS = ("output_ids", "sequence_length")
SETTINGS = {
    "dtype": "float64",
    "device": "cpu",
    "threads": 1,
    "pace_ms": 2,
    "time_scale": 1,
    "max_input_len": 0,
    "max_seq_len": 0,
    "kv_tokens": 0,
    "vocab_size": 4096,
    "agreement": 1,
    "exclude_input_in_output": "true",
    "max_batch_size": 16,
}
TYPES = {"int32": "INT32", "float32": "FP32", "bool": "BOOL", "uint64": "UINT64"}


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


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpcclient.InferenceServerClient]:
    folder = tmp_path_factory.mktemp("engines")
    target = SETTINGS | {"engine": "torch", "model_dir": str(save_tiny_llama(folder / "model")), "max_draft_len": 8}
    draft = SETTINGS | {"engine": "zero", "model_dir": "", "max_draft_len": 0}
    repository = ModelRepository(region_folder("controller"), {"target": target, "draft": draft})
    with TritonServer(repository, name="engines", log_dir=folder) as server:
        server.wait_ready(90)
        with grpcclient.InferenceServerClient(server.grpc_endpoint) as connected:
            yield connected


def inputs(ids: list[int], count: int, drafts: list[int] | None = None, **scalars: object) -> list:
    tensors: dict[str, np.ndarray] = {
        "input_ids": np.asarray([ids], dtype=np.int32),
        "input_lengths": np.array([[len(ids)]], dtype=np.int32),
        "request_output_len": np.array([[count]], dtype=np.int32),
    }
    if drafts is not None:
        tensors["draft_input_ids"] = np.asarray([drafts], dtype=np.int32)
    tensors |= {name: np.array([[value]]) for name, value in scalars.items()}
    made = []
    for name, value in tensors.items():
        array = value.astype(np.int32) if value.dtype == np.int64 else value
        made.append(grpcclient.InferInput(name, array.shape, TYPES[array.dtype.name]))
        made[-1].set_data_from_numpy(array)
    return made


def infer(client: grpcclient.InferenceServerClient, model: str, *args: object, outputs=OUTPUTS, **scalars: object):
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs]
    return client.infer(model, inputs(*args, **scalars), outputs=wanted, client_timeout=30)


def text(client: grpcclient.InferenceServerClient, model: str, *args: object, **scalars: object) -> list[int]:
    return infer(client, model, *args, **scalars).as_numpy("output_ids")[0, 0].tolist()


def test_drafts_are_verified_and_metrics_returned(client) -> None:
    prompt = list(range(1, 41))
    plain = text(client, "target", prompt, 6)
    outputs = (*OUTPUTS, "acceptance_rate", "kv_cache_reused_blocks", "output_log_probs", "last_token_time_ns")
    drafts = [*plain[:3], (plain[3] + 1) % 61]
    result = infer(
        client, "target", prompt, 5, drafts, outputs=outputs, return_perf_metrics=True, return_log_probs=True
    )
    assert result.as_numpy("output_ids").tolist() == [[plain[:4]]]
    assert result.as_numpy("sequence_length").tolist() == [[4]]
    assert result.as_numpy("acceptance_rate").tolist() == [[0.75]]
    assert result.as_numpy("kv_cache_reused_blocks").tolist() == [[2]]
    assert result.as_numpy("output_log_probs").shape == (1, 1, 4)
    assert result.as_numpy("last_token_time_ns").dtype == np.int64


def test_unlike_requests_run_together_and_each_gets_its_own(client) -> None:
    """With and without drafts, of all lengths, plain ones long enough that the others join while they run."""
    prompts = [list(range(1, 4 + index)) for index in range(12)]
    alone = [text(client, "target", prompt, 30) for prompt in prompts]

    def ask(index: int) -> list[int]:
        if index % 2:
            return text(client, "target", prompts[index], 30)
        return text(client, "target", prompts[index], 4, alone[index][: 1 + index % 3])

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    for index, answer in enumerate(together):
        assert answer == (alone[index] if index % 2 else alone[index][: 2 + index % 3])


def test_a_verification_does_not_wait_for_a_long_generation(client) -> None:
    answers: queue.Queue = queue.Queue()
    wanted = [grpcclient.InferRequestedOutput(name) for name in OUTPUTS]
    client.async_infer("target", inputs([1, 2], 400), lambda result, error: answers.put(error), outputs=wanted)
    time.sleep(0.1)
    text(client, "target", [3, 4], 2, [5])
    assert answers.empty(), "the long generation should still be running"
    assert answers.get(timeout=60) is None


def test_input_in_output_both_ways(client) -> None:
    excluded = text(client, "draft", [1, 2, 3], 4)
    assert text(client, "draft", [1, 2, 3], 4, exclude_input_in_output=False) == [1, 2, 3, *excluded]


@pytest.mark.parametrize(
    ("args", "scalars", "message"),
    [
        (([], 2), {}, "input_ids: the prompt is empty"),
        (([99], 2), {}, r"input_ids: token ids must be in \[0, 61\)"),
        (([1], 0), {}, "request_output_len: is 0"),
        (([1], 10, [1] * 9), {}, r"draft tokens \(9\) is larger than maximum number of draft tokens \(8\)"),
        (([1], 2), {"beam_width": 2}, "beam_width: is 2"),
        (([1], 2), {"streaming": True}, "streaming: is not supported"),
    ],
)
def test_errors_reach_the_client(client, args: tuple, scalars: dict, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        infer(client, "target", *args, **scalars)
    assert "INVALID_ARGUMENT" in caught.value.status()


def test_a_client_that_leaves_stops_the_work(client) -> None:
    """A prefix can be reused only once its request has ended: 3,000 paced steps would take more than 6 s."""
    prompt = list(range(60, 0, -1))
    answers: queue.Queue = queue.Queue()
    wanted = [grpcclient.InferRequestedOutput(name) for name in OUTPUTS]
    call = client.async_infer("target", inputs(prompt, 3000), lambda result, error: answers.put(error), outputs=wanted)
    time.sleep(0.3)
    call.cancel()
    assert "CANCELLED" in answers.get(timeout=10).status()
    time.sleep(1.0)
    probe = infer(client, "target", prompt, 1, outputs=(*OUTPUTS, "kv_cache_reused_blocks"), return_perf_metrics=True)
    assert probe.as_numpy("kv_cache_reused_blocks").tolist() == [[2]]
