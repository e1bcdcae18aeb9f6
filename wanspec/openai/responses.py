"""Responses of the OpenAI API: plain values, whole or in chunks. A test reads them by the types of OpenAI's client."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wanspec.openai.stop import StopBuffer
from wanspec.triton.client import Answer, Piece


@dataclass(slots=True)
class Choice:
    """One answer of a response, as it grows.

    Attributes:
        index: its number in the response.
        prompt: number of the prompt that it answers.
        text: so far.
        tokens: of the endpoint so far, those of a stop sequence included.
        prompt_tokens: of the prompt, once known.
        finish_reason: ``stop`` or ``length``, once it has ended.
        summary: what it cost, where that was asked for (``docs/endpoint.md``).
    """

    index: int
    prompt: int
    stops: Sequence[str]
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    _buffer: StopBuffer = field(init=False)

    def __post_init__(self) -> None:
        self._buffer = StopBuffer(self.stops)

    def add(self, piece: Piece) -> str:
        """Add a piece; return the text that it completes. A stop sequence ends the answer."""
        self.tokens += len(piece.tokens)
        self.prompt_tokens = self.prompt_tokens or piece.prompt_tokens
        text = self._buffer.push(piece.text)
        self.text += text
        if self._buffer.stopped:
            self.finish_reason = "stop"
        return text

    def end(self, answer: Answer) -> str:
        """End with the endpoint's answer; return the text that was held back."""
        self.finish_reason = answer.finish_reason
        self.summary = answer.summary
        text = self._buffer.flush()
        self.text += text
        return text


class Format:
    """What the responses of one request have in common."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        self._same: dict[str, Any] = {
            "id": ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
            "created": int(time.time()),
            "model": model,
        }

    @property
    def headers(self) -> dict[str, str]:
        """Of the response: its id, for whoever asks about it."""
        return {"x-request-id": str(self._same["id"])}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response of a request without ``stream``."""
        kind = "chat.completion" if self._chat else "text_completion"
        said = [self._closed(choice, self._said(choice.text)) for choice in choices]
        return {**self._same, "object": kind, "choices": said, "usage": usage(choices)}

    def opening(self, choice: Choice) -> dict[str, Any] | None:
        """The first chunk of an answer: a chat says who speaks."""
        return self._chunk(choice, {"delta": {"role": "assistant", "content": ""}}) if self._chat else None

    def chunk(self, choice: Choice, text: str) -> dict[str, Any]:
        """More text of an answer."""
        return self._chunk(choice, {"delta": {"content": text}} if self._chat else {"text": text})

    def closing(self, choice: Choice) -> dict[str, Any]:
        """The last chunk of an answer."""
        return self._chunk(choice, self._closed(choice, {"delta": {}} if self._chat else {"text": ""}))

    def counted(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The chunk after all answers, where ``include_usage`` asks for it."""
        return {**self._same, "object": self._chunks, "choices": [], "usage": usage(choices)}

    @property
    def _chunks(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}

    def _chunk(self, choice: Choice, said: dict[str, Any]) -> dict[str, Any]:
        shown = {"index": choice.index, "logprobs": None, "finish_reason": None} | said
        return {**self._same, "object": self._chunks, "choices": [shown]}

    @staticmethod
    def _closed(choice: Choice, said: dict[str, Any]) -> dict[str, Any]:
        shown = {"index": choice.index, "logprobs": None, "finish_reason": choice.finish_reason} | said
        return shown | ({"summary": choice.summary} if choice.summary else {})


def usage(choices: Sequence[Choice]) -> dict[str, int]:
    """Tokens of all answers; a prompt counts once, however many answers it gets."""
    prompts = {choice.prompt: choice.prompt_tokens for choice in choices}
    asked, answered = sum(prompts.values()), sum(choice.tokens for choice in choices)
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
