"""Requests with the tensors, shapes and types of NVIDIA's example clients for TensorRT-LLM on Triton.

``raw_inputs`` are those of inflight_batcher_llm_client.py, ``text_inputs`` of end_to_end_grpc_client.py, ``speculate``
of e2e_grpc_speculative_decoding_client.py: what they always send, and how they read the answers.
"""

from __future__ import annotations

import json
import queue
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Client = grpcclient.InferenceServerClient
TIMEOUT_S = 30


def tensor(name: str, value: np.ndarray) -> grpcclient.InferInput:
    made = grpcclient.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
    made.set_data_from_numpy(value)
    return made


def one(value: Any, dtype: Any) -> np.ndarray:
    return np.array([[value]], dtype=dtype)


def strings(*values: str) -> np.ndarray:
    return np.array([values], dtype=object)


def tensors(arrays: dict[str, np.ndarray]) -> list[grpcclient.InferInput]:
    return [tensor(name, value) for name, value in arrays.items()]


def raw_inputs(ids: list[int], count: int, *, streaming: bool = False, **more: np.ndarray) -> list:
    return tensors(
        {
            "input_ids": np.array([ids], dtype=np.int32),
            "input_lengths": one(len(ids), np.int32),
            "request_output_len": one(count, np.int32),
            "beam_width": one(1, np.int32),
            "temperature": one(1.0, np.float32),
            "streaming": one(streaming, bool),
            "end_id": one(-1, np.int32),
            "pad_id": one(50256, np.int32),
            "runtime_top_k": one(1, np.int32),
            "runtime_top_p": one(0.0, np.float32),
        }
        | more
    )


def stop_inputs() -> list:
    zero = one(0, np.int32)
    ids = {"input_ids": zero, "input_lengths": zero, "request_output_len": zero}
    return tensors(ids | {"stop": one(True, bool)})


def text_inputs(prompts: list[str], count: int, *, stream: bool = False, **more: np.ndarray) -> list:
    rows = {
        "text_input": np.array([[prompt] for prompt in prompts], dtype=object),
        "max_tokens": one(count, np.int32),
        "stream": one(stream, bool),
        "beam_width": one(1, np.int32),
        "temperature": one(1.0, np.float32),
        "exclude_input_in_output": one(False, bool),
    } | more
    batch = len(prompts)
    return tensors({name: np.repeat(row, batch, axis=0) if len(row) == 1 else row for name, row in rows.items()})


def ask(client: Client, model: str, inputs: list, *outputs: str, request_id: str = "") -> list[grpcclient.InferResult]:
    """All responses of a request on a stream, which also serves models that are not decoupled."""
    answers: queue.Queue = queue.Queue()
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs] or None
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(model, inputs, outputs=wanted, request_id=request_id)
    client.stop_stream()  # returns when the server has closed the stream
    found = []
    while not answers.empty():
        result, error = answers.get()
        if error:
            raise error
        found.append(result)
    return found


def raw(client: Client, ids: list[int], count: int, **more: np.ndarray) -> grpcclient.InferResult:
    """As the client asks without --streaming: every output, by a call with a parameter of its own."""
    answers: queue.Queue = queue.Queue()
    client.async_infer(
        "tensorrt_llm",
        raw_inputs(ids, count, **more),
        request_id="1",
        callback=lambda result, error: answers.put(error or result),
        parameters={"Streaming": False},
    )
    result = answers.get(timeout=TIMEOUT_S)
    if isinstance(result, InferenceServerException):
        raise result
    return result


def generate(endpoint: str, body: dict) -> dict:
    """``ensemble`` over HTTP."""
    request = urllib.request.Request(f"http://{endpoint}/v2/models/ensemble/generate", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read())


@dataclass
class Spoken:
    """What a client-side loop made of its rounds."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    rounds: int = 0
    accepted: int = 0


def preprocess(client: Client, prompt: str, count: int, **words: list[str] | int) -> grpcclient.InferResult:
    arrays = {"QUERY": strings(prompt), "REQUEST_OUTPUT_LEN": one(count, np.int32)}
    for name, value in words.items():
        arrays[name] = one(value, np.int32) if isinstance(value, int) else strings(*value)
    return client.infer("preprocessing", tensors(arrays), request_id="1", client_timeout=TIMEOUT_S)


def speculate(target: Client, draft: Client, prompt: str, count: int, k: int, **words: list[str] | int) -> Spoken:
    """Draft on one server, verify on the other, and put the rounds together here."""
    first = preprocess(draft, prompt, count, **words)
    prefix = np.squeeze(first.as_numpy("INPUT_ID"), axis=0)
    spoken = Spoken(prompt=prefix.tolist())
    fixed = {
        "bad_words_list": first.as_numpy("BAD_WORDS_IDS"),
        "stop_words_list": first.as_numpy("STOP_WORDS_IDS"),
        "beam_width": one(1, np.int32),
        "temperature": one(1.0, np.float32),
        "end_id": one(first.as_numpy("OUT_END_ID")[0][0], np.int32),
        "pad_id": one(first.as_numpy("OUT_PAD_ID")[0][0], np.int32),
    }

    def step(client: Client, length: int, **more: np.ndarray) -> np.ndarray:
        lengths = {"input_lengths": one(len(prefix), np.int32), "request_output_len": one(length, np.int32)}
        inputs = tensors({"input_ids": prefix[None], **lengths, **fixed, **more})
        result = client.infer("tensorrt_llm", inputs, request_id="1", client_timeout=TIMEOUT_S)
        ids = np.squeeze(result.as_numpy("output_ids"), axis=(0, 1))
        assert result.as_numpy("sequence_length").tolist() == [[len(ids)]]
        return ids

    most = len(prefix) + count
    drafted = None
    while True:
        left = min(k, most - len(prefix) - 1)
        drafts: dict[str, np.ndarray] = {}
        if left > 0:
            drafted = step(draft, left)
            drafts = {"draft_input_ids": drafted[None, len(prefix) :].astype(np.int32)}
        length = drafts["draft_input_ids"].shape[1] + 1 if drafts else 1
        answer = step(target, length, **drafts)
        spoken.rounds += 1
        spoken.accepted += max(0, len(answer) - len(prefix) - 1)
        before, prefix = prefix, answer
        stop = any(np.array_equal(prefix[-len(row) :], row) for row in fixed["stop_words_list"][0])
        ended = drafted is not None and np.array_equal(drafted, prefix)
        if len(prefix) >= most or ended or np.array_equal(before, prefix) or stop:
            break
    shown = tensors({"TOKENS_BATCH": prefix[None, None], "SEQUENCE_LENGTH": one(len(prefix), np.int32)})
    output = target.infer("postprocessing", shown, request_id="1", client_timeout=TIMEOUT_S).as_numpy("OUTPUT")
    spoken.text, spoken.ids = output[0].decode("utf8"), prefix.tolist()
    return spoken
