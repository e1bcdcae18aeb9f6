"""Control requests of the ``wanspec`` model: a JSON object in, the switches as they shall be. Free of Triton."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

from wanspec.core.control import Control, Speculation
from wanspec.core.policies import make_policy
from wanspec.errors import InvalidRequestError
from wanspec.triton.request_tensors import Tensors, text

CONTROL, STATE = "control", "state"
FIELDS = ("speculation", "policy", "policy_parameters", "token")


def read_control(tensors: Tensors, present: Control, token: str) -> Control:
    """Read a control request.

    Args:
        tensors: of the request, by input name; ``control`` is one of them.
        present: the switches now. What the request does not name stays; another policy begins with its own parameters.
        token: that the request must show; empty for none.

    Returns:
        The switches as they shall be; ``present`` itself where the request only asks.

    Raises:
        InvalidRequestError: names the field, what is wrong, and the limit.
    """
    others = [name for name in tensors if name != CONTROL]
    if others:
        raise InvalidRequestError(CONTROL, f"goes alone; {' and '.join(others)} came with it")
    given = _object(text(tensors, CONTROL, ""))
    if token and not compare_digest(_string(given, "token", "").encode(), token.encode()):
        raise InvalidRequestError(f"{CONTROL}.token", "is missing or not the endpoint's; it is in auth_token_file")
    if not given.keys() - {"token"}:
        return present
    speculation = _speculation(_string(given, "speculation", present.speculation.value))
    policy = _string(given, "policy", present.policy)
    parameters = {**(present.parameters if policy == present.policy else {}), **_parameters(given)}
    try:
        make_policy(policy, parameters)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{CONTROL}.{error.field}", str(error).partition(": ")[2]) from None
    return Control(speculation, policy, parameters)


def _object(raw: str) -> dict[str, Any]:
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise InvalidRequestError(CONTROL, f"is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequestError(CONTROL, 'is not a JSON object such as {"speculation": "off"}, or {} to ask')
    for name in given:
        if name not in FIELDS:
            raise InvalidRequestError(f"{CONTROL}.{name}", f"is not one of {', '.join(FIELDS)}")
    return given


def _string(given: Mapping[str, Any], name: str, present: str) -> str:
    value = given.get(name, present)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{CONTROL}.{name}", "is not a string")
    return value


def _speculation(name: str) -> Speculation:
    try:
        return Speculation(name)
    except ValueError:
        known = ", ".join(each.value for each in Speculation)
        raise InvalidRequestError(f"{CONTROL}.speculation", f"{name!r} is not one of {known}") from None


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = given.get("policy_parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"{CONTROL}.policy_parameters", 'is not a JSON object such as {"k": 2}')
    return parameters
