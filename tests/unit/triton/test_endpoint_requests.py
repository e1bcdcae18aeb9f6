"""What the endpoint makes of its input tensors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wanspec.errors import ConfigError, InvalidRequestError
from wanspec.models import resolve
from wanspec.triton.auth import read_token
from wanspec.triton.endpoint import Defaults, closing, delta, read_request
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


def test_outputs_have_a_batch_dimension() -> None:
    tensors = delta("é", (1, 2), (0, 1)) | closing("stop", {"rounds": 3}, ("a", "b"))
    assert {name: value.shape for name, value in tensors.items()} == {
        "text_output": (1, 1),
        "output_ids": (1, 2),
        "origins": (1, 2),
        "finish_reason": (1, 1),
        "summary": (1, 1),
        "event_log": (1, 1),
    }
    assert tensors["text_output"][0, 0].decode() == "é"
    assert json.loads(tensors["summary"][0, 0]) == {"rounds": 3}
    assert tensors["event_log"][0, 0] == b"a\nb"
    assert delta("", (), ())["output_ids"].shape == (1, 0)


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
