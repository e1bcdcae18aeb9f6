"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from wanspec.errors import BusyError, DeadlineError, InvalidRequestError, UnavailableError, WanspecError

RETRY_AFTER_S = 1
_TYPES = ("bool", "int", "float", "str")
INVALID, SERVER, TIMEOUT = "invalid_request_error", "server_error", "timeout_error"


class ApiError(Exception):
    """What a client is answered instead of what it asked for.

    Attributes:
        status: of HTTP.
        kind: OpenAI's ``type``.
        param: the request's field that is at fault, where one is.
    """

    def __init__(
        self, status: int, message: str, kind: str = INVALID, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code

    @property
    def headers(self) -> dict[str, str]:
        """Of the response: when to try again, how to authenticate."""
        if self.status == 503:
            return {"Retry-After": str(RETRY_AFTER_S)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}

    def body(self) -> dict[str, Any]:
        """Of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A request that cannot be served as asked."""
    return ApiError(400, message if param is None else f"{param}: {message}", param=param, code=code)


def busy(message: str) -> ApiError:
    """A request that may be served a moment later."""
    return ApiError(503, f"{message}; try again", SERVER, code=BusyError.CODE)


def of_validation(error: ValidationError) -> ApiError:
    """The first thing that a schema found wrong; of a union's types, what the one that came furthest found."""
    first = max(error.errors(include_url=False), key=_reach)
    param = place(first["loc"])
    if first["type"] == "extra_forbidden":
        param = param or str(first["loc"][-1])
        return invalid(param, "is not a parameter of this endpoint", "unknown_parameter")
    if first["type"] == "missing":
        return invalid(param, "is missing", "missing_required_parameter")
    return invalid(param, f"{first['msg']}, not {str(first['input'])[:80]!r}", "invalid_type")


def _reach(each: ErrorDetails) -> tuple[int, bool]:
    """How far a type's reading came: a value of the right type and out of its limits came further."""
    return len(each["loc"]), not each["type"].endswith("_type")


def of_upstream(error: WanspecError, names: Mapping[str, str]) -> ApiError:
    """An error of the endpoint. ``names``: what its inputs are called in OpenAI's request."""
    if isinstance(error, InvalidRequestError):
        problem = str(error).partition(": ")[2]
        param = names.get(error.field, error.field)
        too_long = "context of" in problem and error.field in ("text_input", "input_ids", "messages", "max_tokens")
        return invalid(param, problem, "context_length_exceeded" if too_long else "invalid_value")
    if isinstance(error, BusyError):
        return ApiError(503, str(error), SERVER, code=BusyError.CODE)
    if isinstance(error, UnavailableError):
        return ApiError(503, f"the endpoint takes no request now: {error}", SERVER, code="unavailable")
    if isinstance(error, DeadlineError):
        return ApiError(504, str(error), TIMEOUT, code="deadline_exceeded")
    return ApiError(502, str(error), SERVER, code="upstream_error")


def place(location: Sequence[str | int]) -> str:
    """A field's place in a request: ``messages[0].content``, without the steps that only name a union's types."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier() and step not in _TYPES:
            text += f".{step}" if text else step
    return text
