"""Which requests a controller serves."""

from __future__ import annotations

from collections.abc import Container

from wanspec.core.config import ControllerConfig
from wanspec.core.events import Request
from wanspec.core.options import check_options, check_sampling
from wanspec.core.policies import make_policy
from wanspec.errors import InvalidRequestError

_MAX_TRACEPARENT = 256
_MAX_SEQUENCE = 0xFFFFFFFF
MAX_CONVERSATION = 256


def check_number(number: int, taken: Container[int]) -> None:
    """Refuse a number that a sequence cannot have.

    Raises:
        InvalidRequestError: says what is wrong with it.
    """
    if number in taken:
        raise InvalidRequestError("sequence", f"{number} is already in use")
    if not 0 <= number <= _MAX_SEQUENCE:
        raise InvalidRequestError("sequence", f"{number} is outside 0 to {_MAX_SEQUENCE}")


def check_request(request: Request, config: ControllerConfig) -> None:
    """Refuse a request that cannot be served.

    Raises:
        InvalidRequestError: names the field, what was given and the limit.
    """
    if not request.prompt:
        raise InvalidRequestError("prompt", "is empty; at least 1 token is needed")
    if request.max_tokens < 1:
        raise InvalidRequestError("max_tokens", f"{request.max_tokens} is below the limit of 1")
    total = len(request.prompt) + request.max_tokens
    if total > config.context:
        raise InvalidRequestError(
            "max_tokens",
            f"{len(request.prompt)} prompt tokens + {request.max_tokens} make {total}, "
            f"the context of the target is {config.context} tokens",
        )
    vocab = config.fingerprint.vocab_size
    for index, token in enumerate(request.prompt):
        if not 0 <= token < vocab:
            raise InvalidRequestError("input_ids", f"token {token} at {index} is outside 0 to {vocab - 1}")
    if not 0.0 <= request.deadline_ms < float("inf"):
        raise InvalidRequestError("deadline_ms", f"{request.deadline_ms} is not 0 (none) or a time in ms")
    if len(request.traceparent) > _MAX_TRACEPARENT or not request.traceparent.isascii():
        raise InvalidRequestError("traceparent", f"is not at most {_MAX_TRACEPARENT} ASCII characters")
    if len(request.conversation) > MAX_CONVERSATION:
        size = len(request.conversation)
        raise InvalidRequestError("conversation_id", f"{size} characters, the limit is {MAX_CONVERSATION}")
    check_sampling(request.sampling)
    check_options(request.options, vocab, request.max_tokens)
    make_policy(request.policy, request.parameters)
