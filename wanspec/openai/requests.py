"""Requests of the OpenAI API: what is taken, what is refused by name, and what the endpoint is asked instead.

Limits of values are the endpoint's own and are checked there; here are only those that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from wanspec.core.options import MAX_WORDS
from wanspec.openai.errors import invalid, of_validation
from wanspec.triton.client import Prompt

IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
"""Change nothing about an answer."""
UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "logprobs": ((False,), "ask the endpoint itself, by return_log_probs"),
    "top_logprobs": ((), "the endpoint has no output for them"),
    "best_of": ((1,), "answers are not ranked; send n"),
    "echo": ((False,), "an answer comes without its prompt"),
    "suffix": (("",), "text is only continued"),
    "tools": (([],), "answers are text"),
    "tool_choice": (("none", "auto"), "answers are text"),
    "parallel_tool_calls": ((True, False), "answers are text"),
    "functions": (([],), "answers are text"),
    "function_call": (("none", "auto"), "answers are text"),
    "response_format": (({"type": "text"},), "answers are not held to a grammar"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "prediction": ((), "drafts come from the draft model"),
    "reasoning_effort": ((), "the model decides"),
    "verbosity": ((), "the model decides"),
    "web_search_options": ((), "answers come from the model alone"),
}
"""Parameters that others' endpoints have: values that ask for nothing, as null does, and why no other is served."""

_SEEDS = 1 << 64


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Words = Annotated[list[Annotated[str, StringConstraints(min_length=1)]], BeforeValidator(_listed)]


Int32 = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
"""What the endpoint's tensors can hold; its own limits are closer."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """``stream_options``."""

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against traffic analysis: none is added


class Sampled(_Strict):
    """What both kinds of request have. Those after ``logit_bias`` are the endpoint's own (``extra_body``)."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[Words, Field(max_length=MAX_WORDS)] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: Int32 | None = None
    top_k: Int32 | None = None
    min_tokens: Int32 | None = None
    bad_words: Words | None = None
    repetition_penalty: float | None = None
    policy: str | None = None
    policy_parameters: dict[str, bool | int | float | str] | None = None
    deadline_ms: Annotated[float, Field(gt=0)] | None = None
    return_summary: bool | None = None

    USUAL_MAX_TOKENS: ClassVar[int | None] = None
    PROMPT: ClassVar[str]

    @property
    def prompts(self) -> list[Prompt]:
        """What is to be answered, each by ``n`` answers."""
        raise NotImplementedError

    @property
    def longest(self) -> int | None:
        """Longest answer asked for."""
        return self.max_tokens

    @property
    def names(self) -> dict[str, str]:
        """What the endpoint's inputs are called here, where the names differ."""
        return {"text_input": self.PROMPT, "input_ids": self.PROMPT}

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def options(self, usual: Mapping[str, Any], answer: int) -> dict[str, Any]:
        """Options of ``WanspecClient.ask`` for one answer.

        Args:
            usual: what the front takes where the request says nothing.
            answer: number among the ``n`` answers to a prompt: each takes a seed of its own.
        """
        same = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "min_tokens", "policy")
        given = {name: getattr(self, name) for name in (*same, "repetition_penalty", "deadline_ms")}
        given |= {"max_tokens": self.longest, "logit_bias": self._biases(), "bad_words": self.bad_words}
        given["seed"] = None if self.seed is None else (self.seed + answer) % _SEEDS
        wanted = {name: value for name, value in given.items() if value is not None}
        options = {"max_tokens": self.USUAL_MAX_TOKENS, **usual, **wanted, "summary": bool(self.return_summary)}
        return options | {"policy_parameters": self._parameters(usual)}

    def _parameters(self, usual: Mapping[str, Any]) -> dict[str, Any] | None:
        """The policy's: the usual ones are those of the usual policy alone."""
        same = self.policy is None or self.policy == usual.get("policy")
        return {**(usual.get("policy_parameters") or {} if same else {}), **(self.policy_parameters or {})} or None

    def _biases(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        wrong = next((token for token in self.logit_bias if not _is_token_id(token)), None)
        if wrong is not None:
            raise invalid("logit_bias", f"{wrong[:40]!r} is not a token id")
        return {int(token): bias for token, bias in self.logit_bias.items()}


def _is_token_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10


class CompletionRequest(Sampled):
    """Body of ``/v1/completions``."""

    prompt: str | list[str] | list[Int32] | list[list[Int32]]

    USUAL_MAX_TOKENS: ClassVar[int | None] = 16  # OpenAI's
    PROMPT: ClassVar[str] = "prompt"

    @property
    def prompts(self) -> list[Prompt]:
        """One or several, as text or token ids."""
        if isinstance(self.prompt, str) or not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]  # all are, if the first is
        return list(self.prompt)


class TextPart(_Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """One message of a conversation."""

    role: Literal["developer", "system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: list[Any] | None = None

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it. ``developer`` is OpenAI's newer name for ``system``."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Sampled):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Int32 | None = None

    PROMPT: ClassVar[str] = "messages"

    @property
    def prompts(self) -> list[Prompt]:
        """The conversation."""
        return [[message.plain for message in self.messages]]

    @property
    def longest(self) -> int | None:
        """``max_tokens`` is the older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def names(self) -> dict[str, str]:
        """As above."""
        newer = {} if self.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
        return super().names | newer


Body = TypeVar("Body", bound=Sampled)


def read(kind: type[Body], values: Any) -> Body:
    """Read a request's body.

    Raises:
        ApiError: names the first field that is wrong, unknown or not served.
    """
    if not isinstance(values, dict):
        raise invalid(None, "the body is not a JSON object")
    given = {name: value for name, value in values.items() if value is not None and name not in IGNORED}
    for name in [name for name in given if name in UNSUPPORTED]:
        neutral, why = UNSUPPORTED[name]
        value = given.pop(name)
        if not any(value == each and type(value) is type(each) for each in neutral):
            raise invalid(name, f"is not supported: {why}", "unsupported_parameter")
    try:
        body = kind.model_validate(given)
    except ValidationError as error:
        raise of_validation(error) from None
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options", "goes with stream = true")
    return body
