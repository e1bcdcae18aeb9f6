"""``target`` and ``draft`` on a real Triton: TensorRT-LLM's tensors over gRPC. ``draft`` is deployed decoupled."""

from __future__ import annotations

import json
import queue
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpcclient
from transformers import LlamaConfig, LlamaForCausalLM
from tritonclient.utils import InferenceServerException

from tests.integration.quick import QuickServer
from wanspec.engines.shared_gpu import gpu_use
from wanspec.triton.repository import ModelRepository, region_folder
from wanspec.triton.server import TritonServer

OUTPUTS = ("output_ids", "sequence_length")
SETTINGS = {
    "dtype": "float64",
    "weights": "same",
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
    "triton_max_batch_size": 16,
    "max_batch_size": 0,
}
NARROW = {"int64": "int32", "float64": "float32"}
DTYPES = {"INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64}
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "gpu").mkdir()
    shared = SETTINGS | {"engine": "torch", "model_dir": str(save_tiny_llama(folder / "model"))}
    shared |= {"shared_gpu": str(folder / "gpu")}
    target = shared | {"max_draft_len": 8, "decoupled": "false"}
    draft = shared | {"max_draft_len": 0, "decoupled": "true"}
    repository = ModelRepository(region_folder("controller"), {"target": target, "draft": draft})
    with QuickServer(repository, name="engines", log_dir=folder) as server:
        server.wait_ready(90)
        yield server


@pytest.fixture(scope="module")
def client(server) -> Iterator[grpcclient.InferenceServerClient]:
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
    tensors |= {
        name: value if isinstance(value, np.ndarray) else np.array([[value]]) for name, value in scalars.items()
    }
    made = []
    for name, value in tensors.items():
        array = value.astype(NARROW.get(value.dtype.name, value.dtype.name))
        made.append(grpcclient.InferInput(name, array.shape, TYPES[array.dtype.name]))
        made[-1].set_data_from_numpy(array)
    return made


def infer(client: grpcclient.InferenceServerClient, model: str, *args: object, outputs=OUTPUTS, **scalars: object):
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs]
    return client.infer(model, inputs(*args, **scalars), outputs=wanted, client_timeout=30)


def text(client: grpcclient.InferenceServerClient, model: str, *args: object, **scalars: object) -> list[int]:
    return infer(client, model, *args, **scalars).as_numpy("output_ids")[0, 0].tolist()


def test_two_models_that_share_a_gpu_take_turns_on_it(server, client) -> None:
    """Both are busy all the while, and the GPU with one of them at a time."""
    folder = Path(server.log).parent / "gpu"
    before, began = gpu_use(folder), time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        target = pool.submit(text, client, "target", [1, 2, 3], 30)
        assert stream(client, inputs([1, 2, 3], 30))
        assert len(target.result(60)) == 30
    passed_ns = 1e9 * (time.monotonic() - began)
    used = {name: use.busy_ns - before[name].busy_ns for name, use in gpu_use(folder).items()}
    assert {name: use.passes - before[name].passes for name, use in gpu_use(folder).items()} == {
        "target": 30,
        "draft": 30,
    }
    assert all(busy_ns >= 30 * 2e6 for busy_ns in used.values())
    assert sum(used.values()) <= passed_ns


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
    excluded = text(client, "target", [1, 2, 3], 4)
    assert text(client, "target", [1, 2, 3], 4, exclude_input_in_output=False) == [1, 2, 3, *excluded]


@pytest.mark.parametrize(
    ("args", "scalars", "message"),
    [
        (([], 2), {}, "input_ids: the prompt is empty"),
        (([99], 2), {}, r"input_ids: token ids must be in \[0, 61\)"),
        (([1], 0), {}, "request_output_len: is 0"),
        (([1], 10, [1] * 9), {}, r"draft tokens \(9\) is larger than maximum number of draft tokens \(8\)"),
        (([1], 2), {"beam_width": 2}, "beam_width: is 2"),
        (([1], 2), {"streaming": True}, "streaming: is only supported if the model is deployed using decoupled mode"),
        (([1], 2), {"lora_task_id": np.uint64(3)}, "lora_task_id: is not supported"),
        (([1], 2), {"runtime_top_p": 1.5}, "runtime_top_p: is 1.5"),
        (([1], 2), {"return_context_logits": True}, "return_context_logits: is not available"),
        (([1], 2), {"stop": True}, "stop: needs the request_id"),
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


def test_sampling_by_seed_with_drafts_and_without(client) -> None:
    """Right and wrong drafts, round by round, give what one request gives; another seed gives something else."""
    prompt = list(range(1, 30))
    options = {"temperature": 0.9, "runtime_top_k": 30, "runtime_top_p": 0.95, "repetition_penalty": 1.2}
    seed = np.uint64(2**63 + 5)
    whole = text(client, "target", prompt, 16, seed=seed, **options)
    assert text(client, "target", prompt, 16, seed=np.uint64(6), **options) != whole
    done: list[int] = []
    while len(done) < 16:
        drafts = whole[len(done) : len(done) + 3]
        drafts[-1] = (drafts[-1] + len(done) % 2) % 61
        done += text(client, "target", [*prompt, *done], len(drafts) + 1, drafts, seed=seed, **options)
    assert done[:16] == whole


def test_one_hot_draft_logits_are_taken(client) -> None:
    prompt = list(range(1, 30))
    options = {"runtime_top_p": 1.0, "seed": np.uint64(4), "draft_acceptance_threshold": 1e-9}
    drafts = [7, 8, 9]
    logits = np.full((1, 3, 64), -1e4, dtype=np.float32)
    logits[0, range(3), drafts] = 0.0
    assert text(client, "target", prompt, 4, drafts, draft_logits=logits, **options)[:3] == drafts


def test_words_and_logits(client) -> None:
    prompt = [5, 9, 13]
    plain = text(client, "target", prompt, 8)
    stop = np.array([[plain[2:4], [2, -1]]], dtype=np.int32)
    assert text(client, "target", prompt, 8, stop_words_list=stop) == plain[:4]
    bad = np.array([[[plain[0]], [1]]], dtype=np.int32)
    assert plain[0] not in text(client, "target", prompt, 8, bad_words_list=bad)
    outputs = (*OUTPUTS, "generation_logits")
    result = infer(client, "target", prompt, 3, outputs=outputs, return_generation_logits=True)
    logits = result.as_numpy("generation_logits")
    assert logits.shape == (1, 1, 3, 61)
    assert logits[0, 0].argmax(-1).tolist() == plain[:3]


def stream(client, made: list, outputs=OUTPUTS, request_id: str = "", stop: tuple[float, str] | None = None) -> list:
    """Responses of one request to the decoupled model; ``stop`` sends a request to stop another after some time."""
    answers: queue.Queue = queue.Queue()
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs]
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer(
            "draft", made, outputs=wanted, request_id=request_id, enable_empty_final_response=True
        )
        if stop is not None:
            time.sleep(stop[0])
            client.async_stream_infer("draft", inputs([1], 1, stop=True), request_id=stop[1])
        found = []
        while True:
            result, error = answers.get(timeout=30)
            assert error is None, error
            if result.as_numpy("output_ids") is not None:
                found.append(result)
            response = result.get_response()
            if response.parameters["triton_final_response"].bool_param and response.id == request_id:
                return found
    finally:
        client.stop_stream()


def test_streaming(client) -> None:
    whole = text(client, "target", [1, 2, 3], 7)
    parts = stream(client, inputs([1, 2, 3], 7, streaming=True, return_log_probs=True), (*OUTPUTS, "output_log_probs"))
    assert [part.as_numpy("output_ids").tolist() for part in parts] == [[[[token]]] for token in whole]
    assert all(part.as_numpy("sequence_length").tolist() == [[1]] for part in parts)
    assert all(part.as_numpy("output_log_probs").shape == (1, 1, 1) for part in parts)


def test_a_batch_of_several_sequences_when_decoupled(client) -> None:
    first, second = text(client, "target", [1, 2, 3], 5), text(client, "target", [4, 5], 5)
    ids = np.array([[1, 2, 3], [4, 5, 0]], dtype=np.int32)
    made = []
    for name, value in {
        "input_ids": ids,
        "input_lengths": np.array([[3], [2]], dtype=np.int32),
        "request_output_len": np.array([[5], [5]], dtype=np.int32),
        "num_return_sequences": np.array([[1], [2]], dtype=np.int32),
    }.items():
        made.append(grpcclient.InferInput(name, value.shape, "INT32"))
        made[-1].set_data_from_numpy(value)
    found = stream(client, made, (*OUTPUTS, "batch_index", "sequence_index"))
    rows = sorted((part.as_numpy("batch_index").item(), part.as_numpy("output_ids")[0, 0].tolist()) for part in found)
    assert rows == [(0, first), (1, second), (1, second)]


def test_context_logits_of_an_engine_without_drafts(client) -> None:
    made = inputs([1, 2, 3, 4], 1, return_context_logits=True)
    (result,) = stream(client, made, (*OUTPUTS, "context_logits"))
    assert result.as_numpy("context_logits").shape == (1, 4, 61)
    assert result.as_numpy("context_logits")[0, -1].argmax() == result.as_numpy("output_ids").item()


def test_stop_by_request_id(client) -> None:
    started = time.monotonic()
    parts = stream(client, inputs([1, 2, 3], 3000, streaming=True), request_id="long", stop=(0.3, "long"))
    assert time.monotonic() - started < 4.0, "3,000 paced steps take more than 6 s"
    assert 10 < len(parts) < 1500


def test_stop_without_decoupling(client) -> None:
    """Both the stopped request and the one that stops it get an empty answer."""
    answers: queue.Queue = queue.Queue()
    wanted = [grpcclient.InferRequestedOutput(name) for name in OUTPUTS]
    client.async_infer(
        "target",
        inputs([8, 9], 3000),
        lambda result, error: answers.put((result, error)),
        outputs=wanted,
        request_id="endless",
    )
    time.sleep(0.3)
    stop = client.infer("target", inputs([1], 1, stop=True), request_id="endless", client_timeout=10)
    stopped, error = answers.get(timeout=3)
    assert error is None
    assert [result.as_numpy("output_ids") for result in (stop, stopped)] == [None, None]


def test_http_serves_the_same(client, server) -> None:
    options = {"temperature": 0.5, "runtime_top_k": 20, "seed": np.uint64(3)}
    made = [
        {"name": tensor.name(), "shape": list(map(int, tensor.shape())), "datatype": tensor.datatype()}
        | {"data": np.frombuffer(tensor._get_content(), dtype=DTYPES[tensor.datatype()]).tolist()}
        for tensor in inputs([1, 2, 3], 5, **options)
    ]
    body = json.dumps({"inputs": made, "outputs": [{"name": name} for name in OUTPUTS]}).encode()
    call = urllib.request.Request(f"http://{server.http_endpoint}/v2/models/target/infer", body)
    with urllib.request.urlopen(call, timeout=10) as response:
        answer = {output["name"]: output["data"] for output in json.load(response)["outputs"]}
    assert answer["output_ids"] == text(client, "target", [1, 2, 3], 5, **options)
