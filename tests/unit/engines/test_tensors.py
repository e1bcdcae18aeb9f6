from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wanspec.engines.contract import GenerationResult, Timings
from wanspec.engines.inputs import UNSUPPORTED, read_request, read_requests, stop_requested
from wanspec.engines.tensors import check_requested_outputs, write_result
from wanspec.errors import InvalidRequestError

BASE: dict[str, NDArray] = {
    "input_ids": np.array([[5, 6, 7, 0]], dtype=np.int32),
    "input_lengths": np.array([[3]], dtype=np.int32),
    "request_output_len": np.array([[2]], dtype=np.int32),
}
RESULT = GenerationResult(
    output_ids=np.array([8, 9], dtype=np.int32),
    log_probs=np.array([-0.5, -1.0], dtype=np.float32),
    timings=Timings(1, 2, 3, 4),
    total_drafts=4,
    accepted_drafts=1,
    alloc_new_blocks=5,
    reused_blocks=6,
    alloc_total_blocks=7,
    context_logits=np.zeros((3, 8), dtype=np.float32),
    generation_logits=np.ones((2, 8), dtype=np.float32),
)


def flag(value: bool = True) -> NDArray[np.bool_]:
    return np.array([[value]])


def test_input_lengths_cuts_the_row_and_defaults_are_plain_greedy() -> None:
    request = read_request(BASE)
    generation = request.generation
    assert generation.input_ids.tolist() == [5, 6, 7]
    assert (generation.request_output_len, len(generation.draft_input_ids), generation.end_id) == (2, 0, None)
    assert (request.exclude_input, request.return_perf_metrics, generation.return_log_probs) == (False, False, False)


def test_shapes_after_a_servers_reshape_are_read_too() -> None:
    reshaped = BASE | {"input_lengths": np.array([3], dtype=np.int32), "end_id": np.array([9], dtype=np.int32)}
    assert read_request(reshaped).generation.end_id == 9


def test_a_negative_end_id_means_none() -> None:
    assert read_request(BASE | {"end_id": np.array([[-1]], dtype=np.int32)}).generation.end_id is None


@pytest.mark.parametrize("parameter", [True, False])
@pytest.mark.parametrize("tensor", [True, False, None])
def test_the_tensor_overrides_the_parameter_for_input_in_output(parameter: bool, tensor: bool | None) -> None:
    tensors = BASE if tensor is None else BASE | {"exclude_input_in_output": flag(tensor)}
    request = read_request(tensors, exclude_input=parameter)
    excluded = parameter if tensor is None else tensor
    out = write_result(request, RESULT)
    expected = [8, 9] if excluded else [5, 6, 7, 8, 9]
    assert out["output_ids"].tolist() == [[expected]]
    assert out["sequence_length"].tolist() == [[len(expected)]]
    assert {tensor.dtype.name for tensor in (out["output_ids"], out["sequence_length"])} == {"int32"}


def test_optional_outputs_come_only_when_asked_for() -> None:
    asked = BASE | {"return_perf_metrics": flag(), "return_log_probs": flag(), "return_num_output_tokens": flag()}
    out = write_result(read_request(asked), RESULT)
    assert out["output_log_probs"].tolist() == [[[-0.5, -1.0]]]
    assert out["cum_log_probs"].tolist() == [[-1.5]]
    assert out["acceptance_rate"].tolist() == [[0.25]]
    assert out["num_output_tokens"].tolist() == [[2]]
    assert "num_input_tokens" not in out
    times = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    assert [out[name].item() for name in times] == [1, 2, 3, 4]
    assert {out[name].dtype.name for name in times} == {"int64"}
    blocks = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
    assert [out[name].item() for name in blocks] == [5, 6, 7]
    assert (out["total_accepted_draft_tokens"].item(), out["total_draft_tokens"].item()) == (1, 4)
    assert not write_result(read_request(BASE), RESULT).keys() & {"acceptance_rate", "num_output_tokens"}


@pytest.mark.parametrize("missing", sorted(BASE))
def test_required_inputs(missing: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{missing}: is missing"):
        read_request({name: tensor for name, tensor in BASE.items() if name != missing})


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_unsupported_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name}: is not supported"):
        read_request(BASE | {name: np.full((1, 1), 7)})


def test_unsupported_inputs_that_ask_for_nothing_are_accepted() -> None:
    read_request(
        BASE
        | {"streaming": flag(False), "stop": flag(False), "return_context_logits": flag(False)}
        | {"runtime_top_p_decay": np.array([[1.0]], np.float32), "stop_words_list": np.zeros((1, 2, 0), np.int32)}
        | {"len_penalty": np.array([[2.0]], np.float32), "early_stopping": flag(), "pad_id": np.array([[4]], np.int32)}
    )


def test_everything_that_decides_the_tokens_is_read() -> None:
    words = np.array([[[5, 6, 7, 0], [1, 3, -1, -1]]], dtype=np.int32)
    scalars = {
        "temperature": np.float32(0.5),
        "runtime_top_k": np.int32(40),
        "runtime_top_p": np.float32(0.25),
        "seed": np.uint64(2**64 - 1),
        "min_tokens": np.int32(3),
        "repetition_penalty": np.float32(1.5),
        "presence_penalty": np.float32(0.25),
        "frequency_penalty": np.float32(-0.5),
        "draft_acceptance_threshold": np.float32(0.75),
    }
    logits = np.arange(16, dtype=np.float32).reshape(1, 2, 8)
    tensors = BASE | {name: np.array([[value]]) for name, value in scalars.items()}
    tensors |= {"stop_words_list": words, "bad_words_list": words[:, :, :1], "draft_logits": logits}
    tensors |= {"embedding_bias": np.ones((1, 8), np.float32), "draft_input_ids": np.array([[1, 2]], np.int32)}
    tensors |= {"return_context_logits": flag(), "return_generation_logits": flag()}
    found = read_request(tensors).generation
    assert {name: getattr(found, name) for name in scalars} == {name: value.item() for name, value in scalars.items()}
    assert found.stop_words == ((5,), (6, 7))
    assert found.bad_words == ((5,),)
    assert found.draft_logits is not None
    assert found.draft_logits.tolist() == logits[0].tolist()
    assert found.embedding_bias is not None
    assert found.embedding_bias.tolist() == [1.0] * 8
    assert (found.return_context_logits, found.return_generation_logits) == (True, True)
    assert found.sampling.seed == 2**64 - 1


@pytest.mark.parametrize("ends", [[2, 1, -1], [4, -1, -1], [1, 1, -1], [0, 2, -1]])
def test_malformed_word_lists_are_named(ends: list[int]) -> None:
    with pytest.raises(InvalidRequestError, match="bad_words_list: has end offsets"):
        read_request(BASE | {"bad_words_list": np.array([[[5, 6, 7], ends]], dtype=np.int32)})
    empty = np.array([[[0, 0, 0], [0, 0, 0]]], dtype=np.int32)
    assert read_request(BASE | {"bad_words_list": empty}).generation.bad_words == ()


def test_batches_and_several_sequences_need_a_decoupled_model() -> None:
    batch = {
        "input_ids": np.array([[5, 6], [7, 0]], dtype=np.int32),
        "input_lengths": np.array([[2], [1]], dtype=np.int32),
        "request_output_len": np.array([[2], [3]], dtype=np.int32),
        "num_return_sequences": np.array([[1], [2]], dtype=np.int32),
        "seed": np.array([[9], [2**64 - 1]], dtype=np.uint64),
    }
    with pytest.raises(InvalidRequestError, match="input_ids: has batch size 2"):
        read_requests(batch)
    found = read_requests(batch, decoupled=True)
    assert [entry.generation.input_ids.tolist() for entry in found] == [[5, 6], [7], [7]]
    assert [entry.generation.request_output_len for entry in found] == [2, 3, 3]
    assert [(entry.batch_index, entry.sequence_index) for entry in found] == [(0, None), (1, 0), (1, 1)]
    assert [entry.generation.seed for entry in found] == [9, 2**64 - 1, 0]
    out = write_result(found[2], RESULT)
    assert (out["batch_index"].tolist(), out["sequence_index"].tolist()) == ([[1]], [[1]])
    with pytest.raises(InvalidRequestError, match="num_return_sequences: is 2: more than 1 requires a decoupled"):
        read_request(BASE | {"num_return_sequences": np.array([[2]], dtype=np.int32)})
    with pytest.raises(InvalidRequestError, match=r"seed: has shape \[1, 1\]: the batch size of input_ids is 2"):
        read_requests(batch | {"seed": np.array([[1]], dtype=np.uint64)}, decoupled=True)


def test_streaming_needs_a_decoupled_model_and_sends_new_tokens_only() -> None:
    with pytest.raises(InvalidRequestError, match="streaming: is only supported if the model is deployed using decoup"):
        read_request(BASE | {"streaming": flag()})
    (request,) = read_requests(BASE | {"streaming": flag()}, decoupled=True)
    assert write_result(request, RESULT)["output_ids"].tolist() == [[[8, 9]]]


def test_stop_is_recognised() -> None:
    assert stop_requested({"stop": flag()})
    assert not stop_requested(BASE)
    assert not stop_requested(BASE | {"stop": flag(False)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.zeros((2, 3), dtype=np.int32)}, "input_ids: has batch size 2"),
        ({"input_ids": np.zeros(3, dtype=np.int32)}, r"input_ids: has shape \[3\]"),
        ({"input_lengths": np.array([[5]], dtype=np.int32)}, "input_lengths: is 5: input_ids holds 4 tokens"),
        ({"input_lengths": np.array([[-1]], dtype=np.int32)}, "input_lengths: is -1"),
        ({"request_output_len": np.array([[1, 2]], dtype=np.int32)}, r"request_output_len: has shape \[1, 2\]"),
        ({"draft_logits": np.ones((1, 2), np.float32)}, r"draft_logits: has shape \[1, 2\]"),
        ({"stop_words_list": np.ones((1, 3, 2), np.int32)}, r"stop_words_list: has shape \[1, 3, 2\]"),
    ],
)
def test_malformed_inputs_are_named(change: dict[str, NDArray], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read_request(BASE | change)


def test_the_outputs_that_tensorrt_llm_insists_on() -> None:
    check_requested_outputs({"output_ids", "sequence_length"})
    with pytest.raises(InvalidRequestError, match="sequence_length: must be present in list of output tensors"):
        check_requested_outputs({"output_ids"})


@pytest.mark.parametrize("model", ["target", "draft"])
def test_the_model_configuration_declares_what_is_written(model: str) -> None:
    folder = Path(__file__).parents[3] / "model_repo" / "controller" / model
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    everything = BASE | {
        name: flag()
        for name in (
            "return_perf_metrics",
            "return_log_probs",
            "return_num_input_tokens",
            "return_num_output_tokens",
        )
    }
    types = {"int32": "TYPE_INT32", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}
    request = replace(read_request(everything), batch_index=0, sequence_index=0)
    written = write_result(request, RESULT)
    for name, tensor in written.items():
        dims = ", ".join(["1" if name not in _VARIABLE else "-1"] * (tensor.ndim - 1))
        assert f'name: "{name}" data_type: {types[tensor.dtype.name]} dims: [ {dims} ]' in text
    declared = set(re.findall(r'name: "(\w+)"', text[text.index("output [") :]))
    assert declared - written.keys() == {"context_phase_params"}


_VARIABLE = (
    *("output_ids", "sequence_length", "cum_log_probs", "output_log_probs"),
    *("context_logits", "generation_logits"),
)
