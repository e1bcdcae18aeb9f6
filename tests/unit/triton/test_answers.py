"""The output tensors of answers, whole and in pieces."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wanspec.core.events import Finished
from wanspec.core.rounds import Tally
from wanspec.core.tree import Origin
from wanspec.models import resolve
from wanspec.triton.answers import AnswerTensors
from wanspec.triton.control import STATE
from wanspec.triton.endpoint import OUTPUTS, PERF_METRICS, Defaults, read_request
from wanspec.triton.text import TextCodec

CODEC = TextCodec(resolve("small-target"))
PROMPT = "My fellow citizens"
IDS = CODEC.encode(PROMPT, chat=False)
ANSWER = CODEC.word(" of the city")
SUMMARY = {
    "output_tokens": len(ANSWER),
    "ttft_ms": 2.5,
    "latency_ms": 7.0,
    **Tally(drafted_remote=6, accepted_remote=2, drafted_local=2, accepted_local=2).as_dict(),
    "kv_cache_alloc_new_blocks": 1,
    "kv_cache_reused_blocks": 3,
    "kv_cache_alloc_total_blocks": 2,
}


def answer(**flags: bool) -> AnswerTensors:
    tensors = {"input_ids": np.array([IDS], np.int32)} | {name: np.array([[value]]) for name, value in flags.items()}
    return AnswerTensors(read_request(tensors, CODEC, Defaults()), CODEC)


def given(made: AnswerTensors) -> list[dict[str, np.ndarray]]:
    """All pieces of an answer that comes in two rounds."""
    first, rest = ANSWER[:1], ANSWER[1:]
    pieces = [
        made.emit(first, (Origin.TARGET,), (-0.5,)),
        made.emit(rest, (Origin.REMOTE,) * len(rest), (-0.25,) * len(rest)),
        made.finished(Finished(1, "length", SUMMARY, log=("a", "b"))),
    ]
    return [piece for piece in pieces if piece is not None]


def test_a_whole_answer_with_everything() -> None:
    names = ("log_probs", "perf_metrics", "summary", "event_log")
    (tensors,) = given(answer(**{f"return_{name}": True for name in names}))
    assert {name: value.shape for name, value in tensors.items()} == {
        **dict.fromkeys([name for name in OUTPUTS if name != STATE], (1, 1)),
        "output_ids": (1, len(ANSWER)),
        "origins": (1, len(ANSWER)),
        "output_log_probs": (1, 1, len(ANSWER)),
    }
    assert tensors["text_output"][0, 0].decode() == " of the city"
    assert tensors["output_ids"][0].tolist() == list(ANSWER)
    assert tensors["origins"][0].tolist() == [0] + [1] * (len(ANSWER) - 1)
    assert tensors["cum_log_probs"][0, 0] == pytest.approx(tensors["output_log_probs"].sum())
    assert (tensors["num_input_tokens"][0, 0], tensors["num_output_tokens"][0, 0]) == (len(IDS), len(ANSWER))
    assert json.loads(tensors["summary"][0, 0])["rounds"] == 0
    assert tensors["event_log"][0, 0] == b"a\nb"
    assert tensors["finish_reason"][0, 0] == b"length"
    metrics = {name: tensors[name][0, 0].item() for name in PERF_METRICS}
    assert (metrics["total_draft_tokens"], metrics["total_accepted_draft_tokens"], metrics["acceptance_rate"]) == (
        8,
        4,
        0.5,
    )
    assert metrics["kv_cache_reused_blocks"] == 3
    assert metrics["first_token_time_ns"] - metrics["arrival_time_ns"] == 2_500_000
    assert metrics["last_token_time_ns"] - metrics["arrival_time_ns"] == 7_000_000


def test_what_was_not_asked_for_is_not_there() -> None:
    (tensors,) = given(answer(return_num_input_tokens=False, return_num_output_tokens=False))
    assert set(tensors) == {"text_output", "output_ids", "origins", "finish_reason"}


def test_pieces_make_the_answer() -> None:
    pieces = given(answer(stream=True, return_log_probs=True))
    assert len(pieces) == 3
    assert b"".join(piece["text_output"][0, 0] for piece in pieces).decode() == " of the city"
    assert [piece["output_ids"].shape for piece in pieces] == [(1, 1), (1, len(ANSWER) - 1), (1, 0)]
    assert pieces[-1]["output_log_probs"].shape == (1, 1, 0)
    assert pieces[0]["cum_log_probs"][0, 0] == -0.5
    assert pieces[1]["cum_log_probs"][0, 0] == pieces[2]["cum_log_probs"][0, 0] == -0.5 - 0.25 * (len(ANSWER) - 1)
    assert ["num_input_tokens" in piece for piece in pieces] == [True, False, False]
    assert ["finish_reason" in piece for piece in pieces] == [False, False, True]


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_comes_first_where_it_is_not_excluded(stream: bool) -> None:
    pieces = given(answer(exclude_input_in_output=False, stream=stream))
    assert b"".join(piece["text_output"][0, 0] for piece in pieces).decode() == f"{PROMPT} of the city"
    assert np.concatenate([piece["output_ids"][0] for piece in pieces]).tolist() == [*IDS, *ANSWER]
    assert sum(piece["origins"].size for piece in pieces) == len(ANSWER)


def test_metrics_that_the_engine_does_not_state_are_left_out() -> None:
    made = answer(return_perf_metrics=True)
    nothing = {**SUMMARY, **Tally().as_dict(), "ttft_ms": None}
    tensors = made.finished(Finished(1, "length", nothing))
    assert set(PERF_METRICS) - set(tensors) == {*PERF_METRICS[:3], "first_token_time_ns"}
    assert tensors["acceptance_rate"][0, 0] == 0.0
