from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wanspec.engines.contract import GenerationResult, Timings
from wanspec.engines.tensors import check_requested_outputs, read_request, write_result
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("streaming", flag()),
        ("stop", flag()),
        ("return_context_logits", flag()),
        ("return_generation_logits", flag()),
        ("repetition_penalty", np.array([[1.1]], dtype=np.float32)),
        ("presence_penalty", np.array([[0.5]], dtype=np.float32)),
        ("frequency_penalty", np.array([[0.5]], dtype=np.float32)),
        ("draft_logits", np.zeros((1, 2, 8), dtype=np.float32)),
        ("stop_words_list", np.zeros((1, 2, 3), dtype=np.int32)),
        ("bad_words_list", np.zeros((1, 2, 3), dtype=np.int32)),
        ("embedding_bias", np.zeros((1, 8), dtype=np.float32)),
    ],
)
def test_what_is_unsupported_is_refused_by_name(name: str, value: NDArray) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name}: is not supported"):
        read_request(BASE | {name: value})


def test_unsupported_inputs_that_ask_for_nothing_are_accepted() -> None:
    read_request(
        BASE
        | {"streaming": flag(False), "stop": flag(False), "return_context_logits": flag(False)}
        | {"repetition_penalty": np.array([[1.0]], dtype=np.float32), "stop_words_list": np.zeros((1, 2, 0), np.int32)}
        | {"min_tokens": np.array([[4]], dtype=np.int32), "seed": np.array([[4]], dtype=np.uint64)}
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.zeros((2, 3), dtype=np.int32)}, "input_ids: has batch size 2"),
        ({"input_ids": np.zeros(3, dtype=np.int32)}, r"input_ids: has shape \[3\]"),
        ({"input_lengths": np.array([[5]], dtype=np.int32)}, "input_lengths: is 5: input_ids holds 4 tokens"),
        ({"input_lengths": np.array([[-1]], dtype=np.int32)}, "input_lengths: is -1"),
        ({"request_output_len": np.array([[1, 2]], dtype=np.int32)}, r"request_output_len: has shape \[1, 2\]"),
        (
            {"end_id": np.array([[1]], np.int32), "min_tokens": np.array([[3]], np.int32)},
            "min_tokens: is not supported",
        ),
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
    for name, tensor in write_result(read_request(everything), RESULT).items():
        dims = ", ".join(["1" if name not in _VARIABLE else "-1"] * (tensor.ndim - 1))
        assert f'name: "{name}" data_type: {types[tensor.dtype.name]} dims: [ {dims} ]' in text


_VARIABLE = ("output_ids", "sequence_length", "cum_log_probs", "output_log_probs")
