"""Requests of the ``wanspec`` model: tensors in, a core request out. Free of Triton, so that it can be tested alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.events import Request
from wanspec.errors import InvalidRequestError
from wanspec.triton.text import TextCodec

INPUTS = (
    "text_input",
    "input_ids",
    "max_tokens",
    "stream",
    "chat",
    "end_id",
    "policy",
    "policy_parameters",
    "deadline_ms",
    "return_summary",
    "return_event_log",
)
OUTPUTS = ("text_output", "output_ids", "origins", "finish_reason", "summary", "event_log")

DEFAULT_MAX_TOKENS = 128
MAX_TEXT_BYTES = 4 << 20
_NO_END = -1


@dataclass(frozen=True, slots=True)
class Defaults:
    """What applies to a request that does not say otherwise."""

    policy: str = "wanspec"
    parameters: Mapping[str, float | int | str] | None = None
    context: int = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the endpoint: what the core needs, and how to answer."""

    request: Request
    stream: bool
    summary: bool
    event_log: bool


def read_request(
    tensors: Mapping[str, NDArray[Any]], codec: TextCodec, defaults: Defaults, traceparent: str = ""
) -> Asked:
    """Read a request's tensors.

    Args:
        tensors: by input name, batch dimension included.
        codec: the target's tokenizer.
        defaults: the deployment's.
        traceparent: the caller's trace context.

    Raises:
        InvalidRequestError: names the input, what is wrong, and the limit.
    """
    prompt = _prompt(tensors, codec, defaults.context)
    room = defaults.context - len(prompt)
    max_tokens = _scalar(tensors, "max_tokens", max(1, min(DEFAULT_MAX_TOKENS, room)))
    policy, parameters = _policy(tensors, defaults)
    request = Request(
        prompt=prompt,
        max_tokens=max_tokens,
        end_ids=_end_ids(tensors, codec),
        policy=policy,
        parameters=parameters,
        record=bool(_scalar(tensors, "return_event_log", 0)),
        deadline_ms=_deadline(tensors),
        traceparent=traceparent,
    )
    return Asked(
        request,
        stream=bool(_scalar(tensors, "stream", 0)),
        summary=bool(_scalar(tensors, "return_summary", 0)),
        event_log=request.record,
    )


def _prompt(tensors: Mapping[str, NDArray[Any]], codec: TextCodec, context: int) -> tuple[int, ...]:
    text, ids = tensors.get("text_input"), tensors.get("input_ids")
    if (text is None) == (ids is None):
        raise InvalidRequestError(
            "text_input", "send either text_input or input_ids" + (", not both" if ids is not None else "")
        )
    if ids is not None:
        if ids.size == 0:
            raise InvalidRequestError("input_ids", "is empty; at least 1 token is needed")
        return tuple(int(token) for token in ids.reshape(-1))
    prompt = _text(tensors, "text_input", "")
    if not prompt:
        raise InvalidRequestError("text_input", "is empty; at least 1 character is needed")
    # Known without the seconds that splitting a huge text takes.
    if len(prompt) > context * codec.longest_token:
        raise InvalidRequestError("text_input", f"{len(prompt)} characters cannot fit a context of {context} tokens")
    return tuple(codec.encode(prompt, chat=bool(_scalar(tensors, "chat", 0))))


def _policy(tensors: Mapping[str, NDArray[Any]], defaults: Defaults) -> tuple[str, dict[str, float | int | str]]:
    name = _text(tensors, "policy", defaults.policy)
    parameters = dict(defaults.parameters or {}) if name == defaults.policy else {}
    raw = _text(tensors, "policy_parameters", "")
    if raw:
        try:
            given = json.loads(raw)
        except ValueError as error:
            raise InvalidRequestError("policy_parameters", f"is not JSON: {error}") from None
        if not isinstance(given, dict):
            raise InvalidRequestError("policy_parameters", 'is not a JSON object such as {"k": 2}')
        parameters.update(given)
    return name, parameters


def _end_ids(tensors: Mapping[str, NDArray[Any]], codec: TextCodec) -> frozenset[int]:
    end = _scalar(tensors, "end_id", None)
    if end is None:
        return codec.end_ids
    vocabulary = codec.tokenizer.get_vocab_size()
    if not _NO_END <= end < vocabulary:
        raise InvalidRequestError("end_id", f"{end} is no token id (0 to {vocabulary - 1}) and not -1 for none")
    return frozenset() if end == _NO_END else frozenset([end])


def _deadline(tensors: Mapping[str, NDArray[Any]]) -> float:
    tensor = tensors.get("deadline_ms")
    value = 0.0 if tensor is None else float(_one(tensor, "deadline_ms"))
    if not 0.0 <= value < float("inf"):
        raise InvalidRequestError("deadline_ms", f"{value} is not a time of 0 ms or more")
    return value


def _text(tensors: Mapping[str, NDArray[Any]], name: str, default: str) -> str:
    tensor = tensors.get(name)
    if tensor is None:
        return default
    raw = _one(tensor, name)
    data = raw if isinstance(raw, bytes) else str(raw).encode()
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequestError(name, f"{len(data)} bytes, the limit is {MAX_TEXT_BYTES}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(name, f"is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None


def _scalar(tensors: Mapping[str, NDArray[Any]], name: str, default: Any) -> Any:
    tensor = tensors.get(name)
    return default if tensor is None else int(_one(tensor, name))


def _one(tensor: NDArray[Any], name: str) -> Any:
    if tensor.size != 1:
        raise InvalidRequestError(name, f"{tensor.size} values, exactly 1 is needed")
    return tensor.reshape(-1)[0]


def delta(text: str, tokens: tuple[int, ...], origins: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Make the output tensors of one piece of an answer, batch dimension included."""
    return {
        "text_output": np.array([[text.encode()]], dtype=np.object_),
        "output_ids": np.array([tokens], dtype=np.int32).reshape(1, -1),
        "origins": np.array([origins], dtype=np.uint8).reshape(1, -1),
    }


def closing(
    finish_reason: str, summary: dict[str, object] | None, log: tuple[str, ...] | None
) -> dict[str, NDArray[Any]]:
    """Make the output tensors that only the last piece has."""
    tensors = {"finish_reason": np.array([[finish_reason.encode()]], dtype=np.object_)}
    if summary is not None:
        tensors["summary"] = np.array([[json.dumps(summary).encode()]], dtype=np.object_)
    if log is not None:
        tensors["event_log"] = np.array([["\n".join(log).encode()]], dtype=np.object_)
    return tensors
