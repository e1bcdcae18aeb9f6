"""The compatibility profile on real servers, asked as NVIDIA's example clients ask. Float64: equality is strict.

``target`` and ``draft`` are the two regions' servers; ``streaming`` is the target's with decoupled models and the zero
engine, and holds the endpoint ``wanspec`` too.
"""

from __future__ import annotations

import queue
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from tests.integration.nvidia_clients import (
    TIMEOUT_S,
    ask,
    generate,
    one,
    preprocess,
    raw,
    raw_inputs,
    speculate,
    stop_inputs,
    strings,
    tensors,
    text_inputs,
)
from tests.integration.quick import QuickServer
from wanspec.triton.client import WanspecClient
from wanspec.triton.regions import EngineSettings, RegionSettings, controller_repository, worker_repository

PROMPT = "The history of the city begins with"
PROMPTS = (PROMPT, "It was the best of times", "Whales are seldom seen in")
CHAIN = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble")
COUNT = 16


@dataclass
class Servers:
    target: grpcclient.InferenceServerClient
    draft: grpcclient.InferenceServerClient
    streaming: grpcclient.InferenceServerClient
    http: str
    endpoint: str
    other: str  # gRPC of ``streaming``, as ``endpoint`` is of ``target``


@pytest.fixture(scope="module")
def servers(small_regions: RegionSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    logs = tmp_path_factory.mktemp("compatibility")
    unary = replace(small_regions, compat=True, local_draft_model=False)
    decoupled = replace(unary, decoupled=True, target=EngineSettings(engine="zero", pace_ms=2.0))
    shapes = {
        "target": (controller_repository(unary, ""), [CHAIN[:3], (*CHAIN[3:], "wanspec")]),
        "draft": (worker_repository(unary), [("tensorrt_llm", "preprocessing")]),
        "streaming": (controller_repository(decoupled, ""), [CHAIN[:3], (*CHAIN[3:], "wanspec")]),
    }
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(shapes)))
        started: dict[str, QuickServer] = {}
        stack.callback(lambda: list(pool.map(QuickServer.stop, started.values())))
        for name, (repository, stages) in shapes.items():
            started[name] = QuickServer(repository, name=name, stages=stages, log_dir=logs)
            started[name].start()
        list(pool.map(lambda server: server.wait_ready(150), started.values()))
        connect = grpcclient.InferenceServerClient
        clients = {name: stack.enter_context(connect(server.grpc_endpoint)) for name, server in started.items()}
        target, streaming = started["target"], started["streaming"]
        yield Servers(
            **clients, http=target.http_endpoint, endpoint=target.grpc_endpoint, other=streaming.grpc_endpoint
        )


@pytest.fixture(scope="module")
def tokenizer(small_regions: RegionSettings) -> Tokenizer:
    return Tokenizer.from_file(str(small_regions.target_dir / "tokenizer.json"))


def ensemble(servers: Servers, prompt: str, count: int, **more: np.ndarray) -> str:
    (result,) = ask(servers.target, "ensemble", text_inputs([prompt], count, **more), "text_output")
    return result.as_numpy("text_output")[0].decode("utf-8")


def test_raw_tensors_with_input_and_without(servers: Servers, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).ids
    counted = {"return_num_input_tokens": one(True, bool), "return_num_output_tokens": one(True, bool)}
    result = raw(
        servers.target, ids, COUNT, return_perf_metrics=one(True, bool), return_log_probs=one(True, bool), **counted
    )
    whole = result.as_numpy("output_ids")[0][0].tolist()
    assert whole[: len(ids)] == ids
    assert result.as_numpy("sequence_length")[0][0] == len(whole) == len(ids) + COUNT
    assert result.as_numpy("num_input_tokens").tolist() == [[len(ids)]]
    assert result.as_numpy("num_output_tokens").tolist() == [[COUNT]]
    assert result.as_numpy("output_log_probs")[0].shape == (1, COUNT)
    assert result.as_numpy("total_draft_tokens").tolist() == [[0]]
    excluded = raw(servers.target, ids, COUNT, exclude_input_in_output=one(True, bool))
    assert excluded.as_numpy("output_ids")[0][0].tolist() == whole[len(ids) :]
    assert tokenizer.decode(whole) == ensemble(servers, PROMPT, COUNT)
    drafts = np.array([whole[len(ids) : len(ids) + 3]], dtype=np.int32)
    verified = raw(servers.target, ids, 4, draft_input_ids=drafts, return_perf_metrics=one(True, bool))
    assert verified.as_numpy("output_ids")[0][0].tolist() == whole[: len(ids) + 4]
    assert verified.as_numpy("total_accepted_draft_tokens").tolist() == [[3]]


def test_the_chain_by_its_tensor_names(servers: Servers) -> None:
    """Every output of one model that is an input of the next, as a client that follows the ensemble would send it."""
    words = {"STOP_WORDS_DICT": ["zebra", "xylophone"], "BAD_WORDS_DICT": [" the"]}
    first = preprocess(servers.target, PROMPT, COUNT, **words)
    passed = {
        "input_ids": "INPUT_ID",
        "input_lengths": "REQUEST_INPUT_LEN",
        "decoder_input_ids": "DECODER_INPUT_ID",
        "decoder_input_lengths": "REQUEST_DECODER_INPUT_LEN",
        "request_output_len": "REQUEST_OUTPUT_LEN",
        "bad_words_list": "BAD_WORDS_IDS",
        "stop_words_list": "STOP_WORDS_IDS",
        "embedding_bias": "EMBEDDING_BIAS",
        "end_id": "OUT_END_ID",
        "pad_id": "OUT_PAD_ID",
    }
    arrays = {name: first.as_numpy(output) for name, output in passed.items()}
    assert arrays["embedding_bias"].shape == (1, 0)
    assert arrays["bad_words_list"].shape[:2] == arrays["stop_words_list"].shape[:2] == (1, 2)
    second = servers.target.infer("tensorrt_llm", tensors(arrays), client_timeout=TIMEOUT_S)
    arrays = {
        "TOKENS_BATCH": second.as_numpy("output_ids"),
        "SEQUENCE_LENGTH": second.as_numpy("sequence_length"),
    }
    third = servers.target.infer("postprocessing", tensors(arrays), client_timeout=TIMEOUT_S)
    text = third.as_numpy("OUTPUT")[0].decode("utf8")
    same = {"stop_words": strings("zebra", "xylophone"), "bad_words": strings(" the")}
    assert text == ensemble(servers, PROMPT, COUNT, **same)
    assert " the" not in text[len(PROMPT) :]
    assert text != ensemble(servers, PROMPT, COUNT)


def test_ensemble_over_http(servers: Servers) -> None:
    whole = ensemble(servers, PROMPT, COUNT)
    body = {"text_input": PROMPT, "max_tokens": COUNT, "bad_words": "", "stop_words": ""}
    assert generate(servers.http, body)["text_output"] == whole
    excluded = generate(servers.http, body | {"exclude_input_in_output": True, "pad_id": 2, "end_id": 4095})[
        "text_output"
    ]
    assert PROMPT + excluded == whole
    word = " " + whole.split()[-3]
    stopped = generate(servers.http, body | {"stop_words": [word, "xylophone"]})["text_output"]
    assert whole.startswith(stopped)
    assert stopped.endswith(word)
    sampled = {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "seed": 7, "min_tokens": 2, "repetition_penalty": 1.1}
    assert (
        generate(servers.http, body | sampled)["text_output"]
        == generate(servers.http, body | sampled)["text_output"]
        != whole
    )


def test_ensemble_passes_everything_on(servers: Servers) -> None:
    vocabulary = 4096
    bias = {"embedding_bias_words": strings(" the"), "embedding_bias_weights": np.array([[100.0]], np.float32)}
    text = ensemble(servers, PROMPT, 3, **bias)[len(PROMPT) :]
    assert text == " the" * 3
    flags = ("return_log_probs", "return_generation_logits", "return_perf_metrics")
    outputs = ("text_output", "cum_log_probs", "output_log_probs", "generation_logits", "acceptance_rate")
    asked = text_inputs([PROMPT], 4, **{name: one(True, bool) for name in flags})
    (result,) = ask(servers.target, "ensemble", asked, *outputs, "kv_cache_reused_blocks", "arrival_time_ns")
    assert result.as_numpy("output_log_probs").shape == (1, 1, 4)
    assert result.as_numpy("generation_logits").shape == (1, 1, 4, vocabulary)
    assert result.as_numpy("arrival_time_ns")[0][0] > 0
    assert result.as_numpy("acceptance_rate")[0][0] == 0


@pytest.mark.parametrize("k", [1, 5])
def test_a_client_side_loop_on_two_servers_equals_target_only(servers: Servers, k: int) -> None:
    accepted = 0
    for prompt in PROMPTS:
        spoken = speculate(servers.target, servers.draft, prompt, COUNT, k)
        accepted += spoken.accepted
        assert spoken.text == ensemble(servers, prompt, COUNT)
        native = WanspecClient(servers.endpoint, timeout_s=TIMEOUT_S)
        answer = native.ask(prompt, max_tokens=COUNT, policy="target_only").result()
        assert spoken.ids == [*spoken.prompt, *answer.tokens]
        assert spoken.rounds < COUNT
    assert accepted > COUNT // 2


def test_a_client_side_loop_ends_where_the_target_ends(servers: Servers, tokenizer: Tokenizer) -> None:
    """By an end token, which no side shows; by a stop word, which is shown; and never by way of a bad word."""
    free = speculate(servers.target, servers.draft, PROMPT, COUNT, 4)
    end = free.ids[len(free.prompt) + 9]
    cut = free.ids.index(end, len(free.prompt))
    spoken = speculate(servers.target, servers.draft, PROMPT, COUNT, 4, END_ID=end, PAD_ID=end)
    assert spoken.ids == free.ids[:cut]
    assert spoken.text == ensemble(servers, PROMPT, COUNT, end_id=one(end, np.int32))
    first = {"end_id": one(free.ids[len(free.prompt)], np.int32), "exclude_input_in_output": one(True, bool)}
    assert ensemble(servers, PROMPT, COUNT, **first) == ""
    word = tokenizer.decode([end])
    spoken = speculate(servers.target, servers.draft, PROMPT, COUNT, 4, STOP_WORDS_DICT=[word])
    assert spoken.ids == free.ids[: cut + 1]
    assert spoken.text == ensemble(servers, PROMPT, COUNT, stop_words=strings(word))
    spoken = speculate(servers.target, servers.draft, PROMPT, COUNT, 4, BAD_WORDS_DICT=[word])
    assert end not in spoken.ids[len(spoken.prompt) :]
    assert spoken.text == ensemble(servers, PROMPT, COUNT, bad_words=strings(word))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_input": strings("")}, "QUERY: is empty; at least 1 token is needed"),
        ({"text_input": np.array([[b"\xff"]], object)}, "QUERY: is not UTF-8"),
        ({"max_tokens": one(0, np.int32)}, "request_output_len: is 0: must be at least 1"),
        ({"top_p": one(1.5, np.float32)}, "runtime_top_p: is 1.5: must be from 0 to 1"),
        ({"beam_width": one(2, np.int32)}, "beam_width: is 2"),
        ({"stream": True}, "streaming: is only supported if the model is deployed using decoupled mode"),
        ({"lora_task_id": one(3, np.uint64)}, "lora_task_id: is not supported"),
        ({"embedding_bias_words": strings("a")}, "EMBEDDING_BIAS_WEIGHTS: no weights for 1 EMBEDDING_BIAS_WORDS"),
        ({"guided_decoding_guide": strings("{}")}, "guided_decoding_guide: is not supported"),
        (
            {"text_input": strings("a " * 1100)},
            r"input_ids: prompt length \(\d+\) exceeds maximum input length \(1024\)",
        ),
        ({"image_url_input": strings("x")}, "unexpected inference input 'image_url_input'"),
    ],
)
def test_bad_input_is_refused_by_name(servers: Servers, change: dict, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        ask(servers.target, "ensemble", text_inputs([PROMPT], 4, **change), "text_output")


def test_bad_tokens_are_refused(servers: Servers) -> None:
    wrong = {"TOKENS_BATCH": np.array([[[1, -1]]], np.int32), "SEQUENCE_LENGTH": one(2, np.int32)}
    with pytest.raises(InferenceServerException, match="TOKENS_BATCH: holds -1") as caught:
        servers.target.infer("postprocessing", tensors(wrong), client_timeout=TIMEOUT_S)
    assert "INVALID_ARGUMENT" in caught.value.status()
    asked = raw_inputs([5, 6], 3, draft_input_ids=np.array([[7, 8]], np.int32))
    with pytest.raises(InferenceServerException, match=r"draft tokens \(2\) is larger than .* \(0\)"):
        servers.draft.infer("tensorrt_llm", asked, client_timeout=TIMEOUT_S)


def streamed(servers: Servers, prompts: list[str], count: int, *outputs: str, **more: np.ndarray) -> list:
    return ask(servers.streaming, "ensemble", text_inputs(prompts, count, **more), "text_output", *outputs)


def test_streaming(servers: Servers, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).ids
    (whole,) = ask(servers.streaming, "tensorrt_llm", raw_inputs(ids, 8), request_id="1")
    new = whole.as_numpy("output_ids")[0][0].tolist()[len(ids) :]
    parts = ask(servers.streaming, "tensorrt_llm", raw_inputs(ids, 8, streaming=True), request_id="1")
    assert [part.as_numpy("output_ids")[0][0].tolist() for part in parts] == [[token] for token in new]
    texts = [text.as_numpy("text_output")[0].decode() for text in streamed(servers, [PROMPT], 8, stream=True)]
    assert texts == [tokenizer.decode([token]) for token in new]


def test_several_prompts_in_one_request(servers: Servers) -> None:
    found = streamed(servers, list(PROMPTS), 8, "batch_index", stop_words=strings("", ""))
    texts = {r.as_numpy("batch_index")[0][0]: r.as_numpy("text_output")[0] for r in found}
    alone = [streamed(servers, [prompt], 8)[0].as_numpy("text_output")[0] for prompt in PROMPTS]
    assert texts == dict(enumerate(alone))
    found = streamed(servers, [PROMPT], 4, "sequence_index", num_return_sequences=one(2, np.int32))
    assert sorted(result.as_numpy("sequence_index").item() for result in found) == [0, 1]


def test_a_stop_request(servers: Servers) -> None:
    answers: queue.Queue = queue.Queue()
    client = servers.streaming
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer("tensorrt_llm", raw_inputs([5, 6, 7], 1000, streaming=True), request_id="9")
    found = [answers.get(timeout=TIMEOUT_S)]  # it runs
    client.async_stream_infer("tensorrt_llm", stop_inputs(), request_id="9", parameters={"Streaming": True})
    client.stop_stream()
    found += [answers.get() for _ in range(answers.qsize())]
    assert not any(isinstance(answer, InferenceServerException) for answer in found)
    assert 0 < sum(answer.as_numpy("output_ids") is not None for answer in found) < 1000


def test_decoupled_models_take_streams_only_and_the_endpoint_calls_them(servers: Servers) -> None:
    with pytest.raises(InferenceServerException, match="decoupled"):
        servers.streaming.infer("tensorrt_llm", raw_inputs([5, 6], 2), client_timeout=TIMEOUT_S)
    (whole,) = streamed(servers, [PROMPT], 8)
    answer = WanspecClient(servers.other, timeout_s=TIMEOUT_S).ask(PROMPT, max_tokens=8).result()
    assert PROMPT + answer.text == whole.as_numpy("text_output")[0].decode()


def test_the_endpoint_samples_as_the_engine_does(servers: Servers) -> None:
    answer = WanspecClient(servers.endpoint, timeout_s=TIMEOUT_S).ask(PROMPT, max_tokens=8, temperature=0.8, seed=3)
    options = {"temperature": one(0.8, np.float32), "top_p": one(1, np.float32), "seed": one(3, np.uint64)}
    assert PROMPT + answer.result().text == ensemble(servers, PROMPT, 8, **options)


def test_over_http_errors_are_bad_requests(servers: Servers) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        generate(servers.http, {"text_input": "", "max_tokens": 4})
    assert caught.value.code == 400
    assert "QUERY: is empty" in caught.value.read().decode()
