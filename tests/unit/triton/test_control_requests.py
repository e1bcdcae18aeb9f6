"""Control requests: what they change, what they may not, and who may send them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wanspec.core.control import Control, Speculation
from wanspec.errors import InvalidRequestError
from wanspec.triton.control import read_control

PRESENT = Control(Speculation.SHADOW, "local", {"k": 3})


def read(sent: object, token: str = "", **more: np.ndarray) -> Control:
    raw = sent if isinstance(sent, str) else json.dumps(sent)
    return read_control({"control": np.array([[raw.encode()]], dtype=np.object_), **more}, PRESENT, token)


def test_what_is_not_named_stays() -> None:
    assert read({}) is PRESENT
    assert read({"speculation": "off"}) == Control(Speculation.OFF, "local", {"k": 3})
    assert read({"policy_parameters": {"k": 5}}) == Control(Speculation.SHADOW, "local", {"k": 5})
    assert read({"policy": "local"}) == PRESENT


def test_another_policy_begins_with_its_own_parameters() -> None:
    assert read({"policy": "wanspec", "policy_parameters": {"phi": 1}}).parameters == {"phi": 1}


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ("{", "^control: is not JSON"),
        ([], "^control: is not a JSON object"),
        ({"speculate": 1}, "^control.speculate: is not one of speculation, policy"),
        ({"speculation": "on"}, "^control.speculation: 'on' is not one of off, local, shadow, remote"),
        ({"speculation": 1}, "^control.speculation: is not a string"),
        ({"policy": "magic"}, "^control.policy: 'magic' is unknown"),
        ({"policy_parameters": [1]}, "^control.policy_parameters: is not a JSON object"),
        ({"policy_parameters": {"k": 99}}, "^control.policy_parameters.k: 99 is outside 1 to 32"),
    ],
)
def test_refusals_name_the_field(sent: object, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message.replace(".", r"\.")):
        read(sent)


def test_a_prompt_does_not_go_with_it() -> None:
    with pytest.raises(InvalidRequestError, match="control: goes alone; text_input came with it"):
        read({}, text_input=np.array([[b"a"]], dtype=np.object_))


@pytest.mark.parametrize("sent", [{}, {"token": ""}, {"token": "wrong"}, {"token": "wröng", "speculation": "off"}])
def test_without_the_token_nothing_is_told_or_set(sent: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"control\.token: is missing or not the endpoint's"):
        read(sent, token="secret")


def test_with_the_token() -> None:
    assert read({"token": "secret"}, token="secret") is PRESENT
    assert read({"token": "any"}) is PRESENT
    assert read({"token": "secret", "speculation": "local"}, token="secret").speculation is Speculation.LOCAL
