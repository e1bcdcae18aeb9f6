"""Requests of the ``wanspec`` model: tensors in, a core request out. Free of Triton, so that it can be tested alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from wanspec.core.config import DEFAULT_POLICY
from wanspec.core.events import Request
from wanspec.core.policies.single_region import TargetOnly
from wanspec.errors import InvalidRequestError
from wanspec.triton.control import CONTROL, STATE
from wanspec.triton.request_options import read_options, read_sampling
from wanspec.triton.request_tensors import Tensors, number, text, whole
from wanspec.triton.text import TextCodec

INPUTS = (
    "text_input",
    "input_ids",
    "messages",
    "chat",
    "max_tokens",
    "stream",
    "conversation_id",
    "exclude_input_in_output",
    "end_id",
    "pad_id",
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
    "beam_width",
    "num_return_sequences",
    "policy",
    "policy_parameters",
    "num_draft_tokens",
    "deadline_ms",
    "return_log_probs",
    "return_perf_metrics",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_summary",
    "return_event_log",
    CONTROL,
)
PERF_METRICS = (
    "kv_cache_alloc_new_blocks",
    "kv_cache_reused_blocks",
    "kv_cache_alloc_total_blocks",
    "arrival_time_ns",
    "first_token_time_ns",
    "last_token_time_ns",
    "acceptance_rate",
    "total_accepted_draft_tokens",
    "total_draft_tokens",
)
OUTPUTS = (
    "text_output",
    "output_ids",
    "origins",
    "cum_log_probs",
    "output_log_probs",
    "num_input_tokens",
    "finish_reason",
    "num_output_tokens",
    *PERF_METRICS,
    "summary",
    "event_log",
    STATE,
)

DEFAULT_MAX_TOKENS = 128
MOST_DRAFTS = 32
PROMPTS = ("text_input", "input_ids", "messages")
_NO_TOKEN = -1
_ONLY_ONE = {
    "beam_width": "drafts cannot be verified by beam search",
    "num_return_sequences": "send one request for each answer, with seeds of their own",
}


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
    """A request of the endpoint: what the core needs, and how to answer.

    Attributes:
        request: for the core.
        stream: answer in pieces.
        echo: the answer begins with the prompt.
        input_count, output_count, perf_metrics, summary, event_log: these are wanted.
    """

    request: Request
    stream: bool
    echo: bool
    input_count: bool
    output_count: bool
    perf_metrics: bool
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
    _check_unused(tensors, codec)
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
        conversation=text(tensors, "conversation_id", ""),
        log_probs=bool(whole(tensors, "return_log_probs", 0)),
    )
    return Asked(
        request,
        stream=bool(whole(tensors, "stream", 0)),
        echo=not whole(tensors, "exclude_input_in_output", 1),
        input_count=bool(whole(tensors, "return_num_input_tokens", 1)),
        output_count=bool(whole(tensors, "return_num_output_tokens", 1)),
        perf_metrics=bool(whole(tensors, "return_perf_metrics", 0)),
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
    if not tensors.keys() & {"policy", "policy_parameters", "num_draft_tokens"}:
        return "", {}
    name = text(tensors, "policy", defaults.policy)
    parameters = dict(defaults.parameters or {}) if name == defaults.policy else {}
    given = _given_parameters(text(tensors, "policy_parameters", ""))
    count = whole(tensors, "num_draft_tokens", None)
    if count is not None:
        _check_drafts(count, name, given)
        name, given = (name, {**given, "k": count}) if count else (TargetOnly.name, {})
        parameters = parameters if count else {}
    return name, parameters | given


def _given_parameters(raw: str) -> dict[str, float | int | str]:
    if not raw:
        return {}
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise InvalidRequestError("policy_parameters", f"is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequestError("policy_parameters", 'is not a JSON object such as {"k": 2}')
    return given


def _check_drafts(count: int, policy: str, given: Mapping[str, object]) -> None:
    """Refuse a number of drafts that policy or parameters contradict: it is the ``k`` of policies that draft."""
    if not 0 <= count <= MOST_DRAFTS:
        raise InvalidRequestError("num_draft_tokens", f"{count} is outside 0 to {MOST_DRAFTS}")
    if "k" in given:
        raise InvalidRequestError("num_draft_tokens", "is the k of policy_parameters, which was sent too: send one")
    if count and policy == TargetOnly.name:
        raise InvalidRequestError("num_draft_tokens", f"is {count}, but policy target_only drafts nothing")


def _check_unused(tensors: Tensors, codec: TextCodec) -> None:
    """Look at inputs that change nothing: those of which only one value makes sense here."""
    for name, reason in _ONLY_ONE.items():
        value = whole(tensors, name, 1)
        if value != 1:
            raise InvalidRequestError(name, f"is {value}, only 1 is served: {reason}")
    _token_id(tensors, "pad_id", codec)


def _end_ids(tensors: Tensors, codec: TextCodec) -> frozenset[int]:
    end = _token_id(tensors, "end_id", codec)
    if end is None:
        return codec.end_ids
    return frozenset() if end == _NO_TOKEN else frozenset([end])


def _token_id(tensors: Tensors, name: str, codec: TextCodec) -> int | None:
    """A token id, -1 for none; None where it is absent."""
    token: int | None = whole(tensors, name, None)
    vocabulary = codec.tokenizer.get_vocab_size()
    if token is not None and not _NO_TOKEN <= token < vocabulary:
        raise InvalidRequestError(name, f"{token} is no token id (0 to {vocabulary - 1}) and not -1 for none")
    return token


def _deadline(tensors: Tensors, defaults: Defaults) -> float:
    value = number(tensors, "deadline_ms", 0.0)
    if not 0.0 <= value < float("inf"):
        raise InvalidRequestError("deadline_ms", f"{value} is not a time of 0 ms or more")
    value, most = value or defaults.deadline_ms, defaults.max_deadline_ms
    return min(value or most, most) if most else value
