"""What the endpoint makes of its input tensors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wanspec.errors import ConfigError, InvalidRequestError
from wanspec.models import resolve
from wanspec.triton.auth import read_token
from wanspec.triton.endpoint import Defaults, read_request
from wanspec.triton.parameters import Parameters
from wanspec.triton.text import TextCodec

CODEC = TextCodec(resolve("small-target"))
DEFAULTS = Defaults("wanspec", {"k": 3}, 1024)


def text(value: str | bytes) -> np.ndarray:
    return np.array([[value if isinstance(value, bytes) else value.encode()]], dtype=np.object_)


def read(**tensors: np.ndarray):
    return read_request(tensors, CODEC, DEFAULTS, "00-abc")


def test_defaults() -> None:
    asked = read(text_input=text("My fellow citizens"))
    assert asked.request.prompt == tuple(CODEC.tokenizer.encode("My fellow citizens").ids)
    assert asked.request.max_tokens == 128
    assert (asked.request.policy, asked.request.parameters) == ("", {}), "the controller's default, whatever it is then"
    assert asked.request.deadline_ms == 0.0
    assert asked.request.end_ids == frozenset({0})
    assert asked.request.traceparent == "00-abc"
    assert (asked.stream, asked.summary, asked.event_log) == (False, False, False)
    assert (asked.echo, asked.input_count, asked.output_count, asked.perf_metrics) == (False, True, True, False)
    assert (asked.request.conversation, asked.request.log_probs) == ("", False)


def test_default_length_fits_the_context() -> None:
    assert read(input_ids=np.arange(1, 1001, dtype=np.int32)[None]).request.max_tokens == 24


def test_a_policy_of_its_own_starts_from_its_own_defaults() -> None:
    assert read(text_input=text("a"), policy=text("local")).request.parameters == {}
    asked = read(text_input=text("a"), policy_parameters=text(json.dumps({"phi": 1})))
    assert asked.request.parameters == {"k": 3, "phi": 1}


@pytest.mark.parametrize(
    ("sent", "usual", "most", "expected"),
    [
        (None, 0, 0, 0),
        (0, 9, 0, 9),
        (None, 9, 20, 9),
        (5, 9, 20, 5),
        (30, 9, 20, 20),
        (None, 0, 20, 20),
        (30, 9, 0, 30),
    ],
)
def test_deadlines(sent: float | None, usual: float, most: float, expected: float) -> None:
    tensors = {} if sent is None else {"deadline_ms": np.array([[sent]], np.float32)}
    defaults = Defaults(deadline_ms=usual, max_deadline_ms=most)
    assert read_request({"text_input": text("a"), **tensors}, CODEC, defaults).request.deadline_ms == expected


@pytest.mark.parametrize(
    ("policy", "count", "expected"),
    [
        (None, 5, ("wanspec", {"k": 5})),
        ("local", 5, ("local", {"k": 5})),
        ("local", 0, ("target_only", {})),
        (None, 0, ("target_only", {})),
        ("target_only", 0, ("target_only", {})),
    ],
)
def test_drafts_a_round_as_in_tensorrt_llm(policy: str | None, count: int, expected: tuple[str, dict]) -> None:
    tensors = {"text_input": text("a"), "num_draft_tokens": np.array([[count]], np.int32)}
    request = read(**tensors, **({} if policy is None else {"policy": text(policy)})).request
    assert (request.policy, request.parameters) == expected


def test_what_is_asked_for() -> None:
    true = np.array([[True]])
    names = ("stream", "return_log_probs", "return_perf_metrics", "return_summary", "return_event_log")
    asked = read(
        text_input=text("a"),
        conversation_id=text("talk"),
        exclude_input_in_output=~true,
        return_num_input_tokens=~true,
        return_num_output_tokens=~true,
        beam_width=np.array([[1]], np.int32),
        num_return_sequences=np.array([[1]], np.int32),
        pad_id=np.array([[0]], np.int32),
        **dict.fromkeys(names, true),
    )
    assert (asked.request.conversation, asked.request.log_probs) == ("talk", True)
    assert (asked.echo, asked.input_count, asked.output_count, asked.perf_metrics) == (True, False, False, True)
    assert (asked.stream, asked.summary, asked.event_log) == (True, True, True)


@pytest.mark.parametrize(("end_id", "expected"), [(-1, frozenset()), (7, frozenset({7}))])
def test_end_id(end_id: int, expected: frozenset[int]) -> None:
    assert read(text_input=text("a"), end_id=np.array([[end_id]], np.int32)).request.end_ids == expected


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "text_input: send exactly one of text_input, input_ids, messages"),
        ({"text_input": text("a"), "input_ids": np.ones((1, 2), np.int32)}, "; text_input and input_ids were sent"),
        ({"messages": text("x")}, "messages: is not JSON"),
        ({"messages": text("[]")}, "messages: is not a JSON list"),
        ({"messages": text('[{"role": "user"}]')}, "messages: message 0 has no string 'content'"),
        ({"messages": text('[{"role": "user", "content": "a"}]')}, "messages: small-target has no chat template"),
        ({"text_input": text("")}, "text_input: is empty"),
        ({"input_ids": np.ones((1, 0), np.int32)}, "input_ids: is empty"),
        ({"text_input": text(b"ab\xff")}, "text_input: is not UTF-8: byte 2 is 0xff"),
        ({"text_input": text("a"), "end_id": np.array([[4096]], np.int32)}, "end_id: 4096 is no token id .0 to 4095."),
        ({"text_input": text("a"), "end_id": np.array([[-2]], np.int32)}, "end_id: -2 is no token id"),
        ({"text_input": text("a"), "pad_id": np.array([[4096]], np.int32)}, "pad_id: 4096 is no token id"),
        ({"text_input": text("a"), "beam_width": np.array([[4]], np.int32)}, "beam_width: is 4, only 1 is served: dra"),
        (
            {"text_input": text("a"), "num_return_sequences": np.array([[0]], np.int32)},
            "num_return_sequences: is 0, only 1 is served: send one request for each",
        ),
        (
            {"text_input": text("a"), "num_draft_tokens": np.array([[33]], np.int32)},
            "num_draft_tokens: 33 is outside 0 to 32",
        ),
        (
            {
                "text_input": text("a"),
                "num_draft_tokens": np.array([[3]], np.int32),
                "policy_parameters": text('{"k": 2}'),
            },
            "num_draft_tokens: is the k of policy_parameters",
        ),
        (
            {"text_input": text("a"), "num_draft_tokens": np.array([[3]], np.int32), "policy": text("target_only")},
            "num_draft_tokens: is 3, but policy target_only drafts nothing",
        ),
        ({"text_input": text("a"), "conversation_id": text(b"\xff")}, "conversation_id: is not UTF-8"),
        ({"text_input": text("a"), "policy_parameters": text("{")}, "policy_parameters: is not JSON"),
        ({"text_input": text("a"), "policy_parameters": text("[1]")}, "policy_parameters: is not a JSON object"),
        ({"text_input": text("a"), "max_tokens": np.ones((1, 2), np.int32)}, "max_tokens: 2 values, exactly 1"),
        ({"text_input": text("a"), "deadline_ms": np.array([[np.nan]], np.float32)}, "deadline_ms: nan"),
        ({"text_input": text("x" * (4 << 20) + "y")}, "text_input: 4194305 bytes, the limit is 4194304"),
        ({"text_input": text("x " * (1 << 20))}, "text_input: 2097152 characters cannot fit a context of 1024 tokens"),
    ],
)
def test_refusals_name_the_field(tensors: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read(**tensors)


def test_parameters_name_what_is_wrong() -> None:
    parameters = Parameters("wanspec", {"context": "many", "empty": "", "share": "-1"})
    with pytest.raises(ConfigError, match=r"wanspec: parameters.context: 'many' is not a whole number"):
        parameters.whole("context")
    with pytest.raises(ConfigError, match=r"parameters.empty: is missing"):
        parameters.text("empty")
    with pytest.raises(ConfigError, match=r"parameters.share: -1.0 is below 0"):
        parameters.number("share")
    assert parameters.whole("absent", 5) == 5


def test_tokens_are_read_from_files(tmp_path) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert read_token(str(file)) == "secret"
    assert read_token("") == ""
    file.write_text(" \n")
    with pytest.raises(ConfigError, match="auth_token_file"):
        read_token(str(file))
    with pytest.raises(ConfigError, match="cannot read"):
        read_token(str(tmp_path / "absent"))
