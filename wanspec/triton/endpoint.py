"""Requests of the ``wanspec`` model: tensors in, a core request out. Free of Triton, so that it can be tested alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.events import Request
from wanspec.errors import InvalidRequestError
from wanspec.triton.control import CONTROL, STATE
from wanspec.triton.request_options import read_options, read_sampling
from wanspec.triton.request_tensors import Tensors, number, text, whole
from wanspec.triton.text import TextCodec

INPUTS = (
    "text_input",
    "input_ids",
    "max_tokens",
    "stream",
    "chat",
    "messages",
    "end_id",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "min_tokens",
    "stop_words",
    "bad_words",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "policy",
    "policy_parameters",
    "deadline_ms",
    "return_summary",
    "return_event_log",
    CONTROL,
)
OUTPUTS = ("text_output", "output_ids", "origins", "num_input_tokens", "finish_reason", "summary", "event_log", STATE)

DEFAULT_MAX_TOKENS = 128
PROMPTS = ("text_input", "input_ids", "messages")
_NO_END = -1


@dataclass(frozen=True, slots=True)
class Defaults:
    """What applies to a request that does not say otherwise.

    Attributes:
        policy, parameters: what a request's ``policy_parameters`` alone are added to.
        context: longest sequence, tokens.
        deadline_ms: longest time for a request that does not limit itself; 0 for no limit.
        max_deadline_ms: longest time for any request; 0 for no limit.
    """

    policy: str = DEFAULT_POLICY
    parameters: Mapping[str, float | int | str] | None = None
    context: int = 1024
    deadline_ms: float = 0.0
    max_deadline_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the endpoint: what the core needs, and how to answer."""

    request: Request
    stream: bool
    summary: bool
    event_log: bool


def read_request(tensors: Tensors, codec: TextCodec, defaults: Defaults, traceparent: str = "") -> Asked:
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
    # A chat's answer ends by itself.
    usual = room if "messages" in tensors else min(DEFAULT_MAX_TOKENS, room)
    max_tokens = whole(tensors, "max_tokens", max(1, usual))
    policy, parameters = _policy(tensors, defaults)
    request = Request(
        prompt=prompt,
        max_tokens=max_tokens,
        end_ids=_end_ids(tensors, codec),
        policy=policy,
        parameters=parameters,
        record=bool(whole(tensors, "return_event_log", 0)),
        deadline_ms=_deadline(tensors, defaults),
        traceparent=traceparent,
        sampling=read_sampling(tensors),
        options=read_options(tensors, codec),
    )
    return Asked(
        request,
        stream=bool(whole(tensors, "stream", 0)),
        summary=bool(whole(tensors, "return_summary", 0)),
        event_log=request.record,
    )


def _prompt(tensors: Tensors, codec: TextCodec, context: int) -> tuple[int, ...]:
    given = [name for name in PROMPTS if name in tensors]
    if len(given) != 1:
        found = f"; {' and '.join(given)} were sent" if given else ""
        raise InvalidRequestError("text_input", f"send exactly one of {', '.join(PROMPTS)}{found}")
    ids = tensors.get("input_ids")
    if ids is not None:
        if ids.size == 0:
            raise InvalidRequestError("input_ids", "is empty; at least 1 token is needed")
        return tuple(int(token) for token in ids.reshape(-1))
    if "messages" in tensors:
        messages = _messages(text(tensors, "messages", ""))
        _check_length("messages", sum(len(message["content"]) for message in messages), codec, context)
        return tuple(codec.encode_chat(messages))
    prompt = text(tensors, "text_input", "")
    if not prompt:
        raise InvalidRequestError("text_input", "is empty; at least 1 character is needed")
    _check_length("text_input", len(prompt), codec, context)
    return tuple(codec.encode(prompt, chat=bool(whole(tensors, "chat", 0))))


def _check_length(field: str, characters: int, codec: TextCodec, context: int) -> None:
    """Refuse what cannot fit without the seconds that splitting a huge text takes."""
    if characters > context * codec.longest_token:
        raise InvalidRequestError(field, f"{characters} characters cannot fit a context of {context} tokens")


def _messages(raw: str) -> list[dict[str, str]]:
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise InvalidRequestError("messages", f"is not JSON: {error}") from None
    if not isinstance(given, list) or not given:
        raise InvalidRequestError("messages", 'is not a JSON list such as [{"role": "user", "content": "Hello"}]')
    for index, message in enumerate(given):
        for name in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(name), str):
                raise InvalidRequestError("messages", f"message {index} has no string {name!r}")
    return given


def _policy(tensors: Tensors, defaults: Defaults) -> tuple[str, dict[str, float | int | str]]:
    """Name and parameters; neither where the request says nothing, and the controller's default is to apply."""
    if "policy" not in tensors and "policy_parameters" not in tensors:
        return "", {}
    name = text(tensors, "policy", defaults.policy)
    parameters = dict(defaults.parameters or {}) if name == defaults.policy else {}
    raw = text(tensors, "policy_parameters", "")
    if raw:
        try:
            given = json.loads(raw)
        except ValueError as error:
            raise InvalidRequestError("policy_parameters", f"is not JSON: {error}") from None
        if not isinstance(given, dict):
            raise InvalidRequestError("policy_parameters", 'is not a JSON object such as {"k": 2}')
        parameters.update(given)
    return name, parameters


def _end_ids(tensors: Tensors, codec: TextCodec) -> frozenset[int]:
    end = whole(tensors, "end_id", None)
    if end is None:
        return codec.end_ids
    vocabulary = codec.tokenizer.get_vocab_size()
    if not _NO_END <= end < vocabulary:
        raise InvalidRequestError("end_id", f"{end} is no token id (0 to {vocabulary - 1}) and not -1 for none")
    return frozenset() if end == _NO_END else frozenset([end])


def _deadline(tensors: Tensors, defaults: Defaults) -> float:
    value = number(tensors, "deadline_ms", 0.0)
    if not 0.0 <= value < float("inf"):
        raise InvalidRequestError("deadline_ms", f"{value} is not a time of 0 ms or more")
    value, most = value or defaults.deadline_ms, defaults.max_deadline_ms
    return min(value or most, most) if most else value


def delta(text: str, tokens: tuple[int, ...], origins: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Make the output tensors of one piece of an answer, batch dimension included."""
    return {
        "text_output": np.array([[text.encode()]], dtype=np.object_),
        "output_ids": np.array([tokens], dtype=np.int32).reshape(1, -1),
        "origins": np.array([origins], dtype=np.uint8).reshape(1, -1),
    }


def beginning(prompt: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Make the output tensors that only the first piece of an answer has."""
    return {"num_input_tokens": np.array([[len(prompt)]], dtype=np.int32)}


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
