"""Sampling on real servers, float64: output equals that of the target alone with the same seed."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tokenizers import Tokenizer

from tests.integration.conftest import wait_for_worker
from tests.integration.prompts import PROMPTS
from tests.integration.quick import QuickDeployment
from tests.unit.engines.sampling_laws import chi_square_passes, law_of
from wanspec.core.replay import replay
from wanspec.core.tree import Origin
from wanspec.engines.kv_cache import KVBuffer
from wanspec.engines.segments import append_segment
from wanspec.engines.torch_model import TorchModel
from wanspec.errors import InvalidRequestError, ServerError
from wanspec.triton.client import Answer, Pending, WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import RegionSettings
from wanspec.triton.request_options import REFUSED
from wanspec.triton.tensorrt_llm.inputs import word_lists

TOKENS = 20
AT_ONCE = 16
POLICIES = ("local", "remote_sync", "wanspec")
SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.7},
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 40},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
)
ASKED = [(prompt, setting | {"seed": 1000 + i}) for i, prompt in enumerate(PROMPTS[:3]) for setting in SETTINGS]


def together(calls: list[Callable[[], Answer]]) -> list[Answer]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda call: call(), calls))


def ask_all(client: WanspecClient, policy: str) -> list[Answer]:
    def ask(prompt: str, setting: dict[str, Any]) -> Callable[[], Answer]:
        return lambda: client.ask(prompt, max_tokens=TOKENS, policy=policy, end_id=-1, **setting).result()

    return together([ask(prompt, setting) for prompt, setting in ASKED])


@pytest.fixture(scope="module")
def reference(small: Deployment) -> list[Answer]:
    return ask_all(WanspecClient(small.controller.grpc_endpoint), "target_only")


@pytest.fixture(scope="module")
def codec(small: Deployment) -> Tokenizer:
    return Tokenizer.from_file(str(small.settings.regions.target_dir / "tokenizer.json"))


Native = Callable[..., list[int]]


@pytest.fixture(scope="module")
def native(small: Deployment) -> Native:
    """What one request to the target gives, all options its own. Each is asked once: all policies are held to it."""
    answers: dict[tuple[Any, ...], list[int]] = {}

    def ask(ids: list[int], tokens: int, **inputs: Any) -> list[int]:
        key = (tuple(ids), tokens, *((name, inputs[name].tobytes()) for name in sorted(inputs)))
        if key not in answers:
            answers[key] = generated(small, ids, tokens, inputs)
        return answers[key]

    return ask


def generated(small: Deployment, ids: list[int], tokens: int, inputs: dict[str, Any]) -> list[int]:
    kinds = {np.dtype(np.int32): "INT32", np.dtype(np.float32): "FP32", np.dtype(np.uint64): "UINT64"}
    values = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[tokens]], np.int32),
        **inputs,
    }
    tensors = []
    for name, value in values.items():
        tensor = triton.InferInput(name, list(value.shape), kinds[value.dtype])
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    with triton.InferenceServerClient(small.controller.grpc_endpoint) as client:
        result = client.infer("target", tensors)
    length = int(result.as_numpy("sequence_length")[0, 0])
    return list(result.as_numpy("output_ids")[0, 0].tolist())[len(ids) : length]


# Byte-exact


@pytest.mark.parametrize(
    ("policy", "rtt_ms"), [*((policy, rtt) for policy in POLICIES for rtt in (0, 30, 100)), ("adaptive", 30)]
)
def test_output_equals_target_only_with_the_same_seed(
    small: Deployment, client: WanspecClient, reference: list[Answer], policy: str, rtt_ms: int
) -> None:
    small.relay.set(delay_ms=rtt_ms / 2)
    answers = ask_all(client, policy)
    for asked, answer, expected in zip(ASKED, answers, reference, strict=True):
        assert answer.tokens == expected.tokens, asked
        assert answer.text == expected.text
        assert answer.summary["seed"] == asked[1]["seed"]
    if policy != "adaptive":  # which may find that drafting does not pay on this machine
        assert sum(answer.summary["rounds"] for answer in answers) < 0.8 * TOKENS * len(answers), "drafts were accepted"
    if policy == "remote_sync":
        assert sum(answer.summary["accepted_remote"] for answer in answers) > 2 * len(answers)
    if policy == "local":
        assert sum(answer.summary["accepted_local"] for answer in answers) > 2 * len(answers)


def test_target_only_is_one_native_request(native: Native, reference: list[Answer], codec: Tokenizer) -> None:
    assert len({tuple(answer.tokens) for answer in reference}) > 0.8 * len(reference), "seeds and settings matter"
    for (prompt, setting), expected in zip(ASKED, reference, strict=True):
        inputs = {
            "temperature": np.array([[setting["temperature"]]], np.float32),
            "runtime_top_p": np.array([[setting.get("top_p", 1.0)]], np.float32),
            "runtime_top_k": np.array([[setting.get("top_k", 0)]], np.int32),
            "seed": np.array([[setting["seed"]]], np.uint64),
        }
        assert native(codec.encode(prompt).ids, TOKENS, **inputs) == expected.tokens


@pytest.mark.parametrize("policy", ["wanspec", "remote_sync"])
def test_worker_killed_mid_answer(small: Deployment, client: WanspecClient, policy: str) -> None:
    setting = {"max_tokens": 200, "end_id": -1, "temperature": 1.0, "seed": 7}
    expected = client.ask(PROMPTS[0], policy="target_only", **setting).result()
    small.relay.set(delay_ms=5.0)
    pending = client.ask(PROMPTS[0], policy=policy, event_log=True, **setting)
    killed_at = 0
    try:
        for number, _ in enumerate(pending):
            if not killed_at and number >= 8 and Origin.REMOTE in pending.answer.origins:
                small.worker.kill()
                killed_at = len(pending.answer.tokens)
    finally:
        if killed_at:
            small.worker.restart()
            small.worker.wait_ready(60)
            wait_for_worker(client)
    assert 0 < killed_at < 150
    assert pending.answer.tokens == expected.tokens
    (replayed,) = replay(pending.answer.event_log).values()
    assert replayed.tokens == expected.tokens
    assert replayed.finished is not None
    assert replayed.finished.summary == pending.answer.summary


def test_a_drawn_seed_repeats_the_answer(client: WanspecClient) -> None:
    setting = {"max_tokens": TOKENS, "end_id": -1, "temperature": 1.0}
    first = client.ask(PROMPTS[0], **setting).result()
    second = client.ask(PROMPTS[0], **setting).result()
    assert first.tokens != second.tokens
    again = client.ask(PROMPTS[0], policy="local", seed=first.summary["seed"], **setting).result()
    assert again.tokens == first.tokens
    assert client.ask(PROMPTS[0], max_tokens=2).result().summary["seed"] is None


def test_remote_drafts_are_accepted_nearly_as_often_as_greedily(client: WanspecClient) -> None:
    def rate(**setting: Any) -> float:
        # A wait that is never cut short: every draft is the worker's.
        options: dict[str, Any] = {"policy": "remote_sync", "policy_parameters": {"k": 2, "wait_ms": 5000}}
        answers = together(
            [
                lambda p=prompt, s=seed: client.ask(p, max_tokens=60, end_id=-1, seed=s, **options, **setting).result()
                for seed, prompt in enumerate(PROMPTS[:10])
            ]
        )
        drafted = sum(answer.summary["drafted_remote"] for answer in answers)
        return sum(answer.summary["accepted_remote"] for answer in answers) / drafted

    assert rate(temperature=1.0) > 0.5 * rate()


# The law


class Law:
    """The target's own distribution, from a model in this process."""

    def __init__(self, small: Deployment) -> None:
        self._model = TorchModel.load(small.settings.regions.target_dir, dtype="float64", threads=1)

    def __call__(self, tokens: list[int], temperature: float, top_k: int = 0, top_p: float = 1.0) -> Any:
        buffer = KVBuffer(self._model.kv_shape, len(tokens))
        ids = np.array(tokens, dtype=np.int32)
        logits = self._model.forward([append_segment(buffer, 0, ids, 1)]).double().numpy()[0]
        return law_of(logits, temperature, top_k, top_p)


@pytest.fixture(scope="module")
def law(small: Deployment) -> Law:
    return Law(small)


def first_tokens(client: WanspecClient, ids: list[int], count: int, tokens: int, **setting: Any) -> list[list[int]]:
    def draw(seed: int) -> list[int]:
        return client.ask(ids, max_tokens=tokens, end_id=-1, stream=False, seed=seed, **setting).result().tokens

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(draw, range(count)))


@pytest.fixture(scope="module")
def one_hot(small_regions: RegionSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WanspecClient]:
    regions = replace(small_regions, sampling="tensorrt_llm", padded_vocab_size=4160)
    with QuickDeployment(DeploymentSettings(regions, log_dir=tmp_path_factory.mktemp("logs"))) as deployment:
        yield WanspecClient(deployment.controller.grpc_endpoint, timeout_s=60.0)


def test_one_hot_logits_keep_the_joint_law_of_drafted_tokens(
    one_hot: WanspecClient, law: Law, codec: Tokenizer
) -> None:
    """Three tokens: the prefill's, then one round with one draft. The joint law of the first two has 9 cells."""
    ids, setting = codec.encode(PROMPTS[1]).ids, {"temperature": 1.0, "top_k": 3}
    drawn = Counter(tuple(t[:2]) for t in first_tokens(one_hot, ids, 1200, 3, policy="local", **setting))
    first = law(ids, **setting)
    cells = {
        (int(a), int(b)): first[a] * second[b]
        for a in np.flatnonzero(first)
        for second in [law([*ids, int(a)], **setting)]
        for b in np.flatnonzero(second)
    }
    assert set(drawn) <= set(cells)
    counts = np.array([drawn[cell] for cell in cells])
    assert chi_square_passes(counts, np.array(list(cells.values())))


def test_one_hot_drafts_are_accepted_and_greedy_output_is_the_same(
    one_hot: WanspecClient, client: WanspecClient
) -> None:
    answer = one_hot.ask(PROMPTS[0], max_tokens=60, end_id=-1, policy="local", temperature=0.5, seed=1).result()
    assert 0 < answer.summary["accepted_local"] < answer.summary["drafted_local"]
    greedy = [each.ask(PROMPTS[0], max_tokens=30, end_id=-1).result().tokens for each in (one_hot, client)]
    assert greedy[0] == greedy[1]


# Options over rounds: as one native request for the whole answer


def scalar(value: float, kind: type = np.float32) -> np.ndarray:
    return np.array([[value]], dtype=kind)


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.7, "top_k": 40, "seed": 5}])
@pytest.mark.parametrize("option", ["repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"])
@pytest.mark.parametrize("policy", POLICIES)
def test_options_over_rounds_are_those_of_one_request(
    native: Native, client: WanspecClient, codec: Tokenizer, policy: str, option: str, setting: dict[str, Any]
) -> None:
    ids = codec.encode(PROMPTS[0]).ids
    inputs = {name: scalar(setting[name]) for name in ("temperature",) if setting}
    if setting:
        inputs |= {"runtime_top_k": scalar(40, np.int32), "runtime_top_p": scalar(1), "seed": scalar(5, np.uint64)}
    plain = native(ids, 40, **inputs)
    values: dict[str, Any] = {"repetition_penalty": 1.5, "presence_penalty": 1.25, "frequency_penalty": 0.75}
    if option == "logit_bias":
        values[option] = dict.fromkeys(set(plain[5:]), -5.0)
        bias = np.zeros((1, 4096), np.float32)
        bias[0, list(values[option])] = -5.0
        inputs["embedding_bias"] = bias
    else:
        inputs[option] = scalar(values[option])
    expected = native(ids, 40, **inputs)
    assert expected != plain
    answer = client.ask(ids, max_tokens=40, end_id=-1, policy=policy, **{option: values[option]}, **setting).result()
    assert answer.tokens == expected


@pytest.mark.parametrize("policy", POLICIES)
def test_bad_words_over_rounds(native: Native, client: WanspecClient, codec: Tokenizer, policy: str) -> None:
    ids = codec.encode(PROMPTS[0]).ids
    plain = native(ids, 40)
    words = [codec.decode(plain[i : i + 2]) for i in (3, 9, 17, 30)] + [codec.decode(plain[12:13])]
    tokens = tuple(tuple(codec.encode(word, add_special_tokens=False).ids) for word in words)
    expected = native(ids, 40, bad_words_list=word_lists([tokens]))
    assert expected != plain
    answer = client.ask(ids, max_tokens=40, end_id=-1, policy=policy, bad_words=words).result()
    assert answer.tokens == expected


@pytest.mark.parametrize("policy", ["target_only", *POLICIES])
def test_stop_words_that_span_rounds(native: Native, client: WanspecClient, codec: Tokenizer, policy: str) -> None:
    ids = codec.encode(PROMPTS[0]).ids
    plain = native(ids, 40)
    word = next(
        text
        for start in range(8, 36)
        for text in [codec.decode(plain[start : start + 3])]
        if codec.encode(text, add_special_tokens=False).ids == plain[start : start + 3]
    )
    tokens = tuple(codec.encode(word, add_special_tokens=False).ids)
    expected = native(ids, 40, stop_words_list=word_lists([(tokens,)]))
    assert tuple(expected[-3:]) == tokens
    answer = client.ask(ids, max_tokens=40, end_id=-1, policy=policy, stop_words=["never so said", word]).result()
    assert (answer.tokens, answer.finish_reason) == (expected, "stop")


@pytest.mark.parametrize("policy", ["target_only", *POLICIES])
def test_min_tokens_over_rounds(native: Native, client: WanspecClient, codec: Tokenizer, policy: str) -> None:
    """The end token is one that the answer has early and late: the first after ``min_tokens`` ends it."""
    ids = codec.encode(PROMPTS[0]).ids
    plain = native(ids, 60)
    end = plain[4]
    for least in (10, 25):
        inputs = {"end_id": scalar(end, np.int32), "min_tokens": scalar(least, np.int32)}
        expected = native(ids, 60, **inputs)
        assert len(expected) >= least
        assert end not in expected
        answer = client.ask(ids, max_tokens=60, end_id=end, min_tokens=least, policy=policy).result()
        assert answer.tokens == expected
        assert answer.finish_reason == ("stop" if len(expected) < 60 else "length")


# Refusals

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": -0.5}, "temperature", "must be 0"),
    ({"temperature": 1e9}, "temperature", "0.001 to 100"),
    ({"top_k": -1}, "top_k", "must be 0"),
    ({"top_p": 1.5}, "top_p", "at most 1"),
    ({"min_tokens": 9}, "min_tokens", "max_tokens, 8"),
    ({"repetition_penalty": 0.0}, "repetition_penalty", "0.01 to 100"),
    ({"presence_penalty": 1e3}, "presence_penalty", "-100 to 100"),
    ({"frequency_penalty": float("nan")}, "frequency_penalty", "-100 to 100"),
    ({"stop_words": [""]}, "stop_words", "1 to 64"),
    ({"bad_words": ["a"] * 65}, "bad_words", "limit is 64"),
    ({"logit_bias": {4096: 1.0}}, "logit_bias", "0 to 4095"),
]


@pytest.mark.parametrize(("options", "field", "limit"), BAD)
def test_bad_values_are_refused_with_field_and_limit(
    client: WanspecClient, options: dict[str, Any], field: str, limit: str
) -> None:
    with pytest.raises(InvalidRequestError, match=limit) as caught:
        client.ask("hello", max_tokens=8, **options).result()
    assert caught.value.field == field


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_by_name_over_http(small: Deployment, client: WanspecClient, name: str) -> None:
    body = json.dumps({"text_input": "hello", "max_tokens": 2, name: 3}).encode()
    call = urllib.request.Request(f"http://{small.controller.http_endpoint}/v2/models/wanspec/generate", body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(call, timeout=30)
    assert caught.value.code == 400
    assert f"{name}: is not supported" in caught.value.read().decode()


def test_what_is_not_served_is_refused_by_name_over_grpc(small: Deployment) -> None:
    ids = triton.InferInput("input_ids", [1, 2], "INT32")
    ids.set_data_from_numpy(np.array([[5, 6]], np.int32))
    for name in REFUSED:
        tensor = triton.InferInput(name, [1, 1], "INT32")
        tensor.set_data_from_numpy(np.array([[3]], np.int32))
        with pytest.raises(ServerError, match=f"'{name}'"):
            Pending(small.controller.grpc_endpoint, "wanspec", [ids, tensor], 30.0).result()


def test_an_answer_over_http_is_the_same(small: Deployment, client: WanspecClient) -> None:
    values = {"text_input": PROMPTS[0], "max_tokens": TOKENS, "temperature": 0.5, "top_k": 40, "seed": 11}
    body = json.dumps(values | {"stop_words": ["never so said", "nor so"]}).encode()
    call = urllib.request.Request(f"http://{small.controller.http_endpoint}/v2/models/wanspec/generate", body)
    with urllib.request.urlopen(call, timeout=30) as response:
        answer = json.loads(response.read())
    expected = client.ask(PROMPTS[0], max_tokens=TOKENS, temperature=0.5, top_k=40, seed=11, policy="target_only")
    assert answer["text_output"] == expected.result().text


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "seed": 3}], ids=["greedy", "sampled"])
def test_log_probabilities_are_those_of_the_target_alone(client: WanspecClient, options: dict[str, Any]) -> None:
    ask = {"max_tokens": TOKENS, "end_id": -1, "return_log_probs": True, **options}
    alone = client.ask(PROMPTS[1], policy="target_only", **ask).result()
    pending = client.ask(PROMPTS[1], policy="wanspec", **ask)
    pieces = list(pending)
    assert all(len(piece.log_probs) == len(piece.tokens) for piece in pieces)
    assert pending.answer.tokens == alone.tokens
    assert pending.answer.log_probs == pytest.approx(alone.log_probs, abs=1e-5)
    assert len(alone.log_probs) == TOKENS
    assert max(alone.log_probs) <= 0.0
    assert client.ask(PROMPTS[1], max_tokens=4).result().log_probs == []
