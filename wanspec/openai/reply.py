"""The response to one request: JSON at the end, or server-sent events. A client that leaves ends its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from wanspec.errors import WanspecError
from wanspec.openai.errors import ApiError, of_upstream
from wanspec.openai.requests import Sampled
from wanspec.openai.responses import Choice, Format
from wanspec.openai.upstream import Answers
from wanspec.triton.client import Answer

logger = logging.getLogger(__name__)

STALL_S = 60.0
"""A client that takes nothing for this long is gone."""


class Reply:
    """An ASGI application for one request: consumes ``answers`` and cancels them if nobody waits any more."""

    def __init__(self, body: Sampled, answers: Answers, choices: Sequence[Choice], form: Format) -> None:
        self._body = body
        self._answers = answers
        self._choices = choices
        self._format = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        send = _bounded(send)
        answering = asyncio.ensure_future(
            self._stream(send) if self._body.stream else self._whole(scope, receive, send)
        )
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
            else:
                logger.info("the client left before its answer was complete")
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            logger.warning("a client took nothing for %g s: dropped", STALL_S)
        finally:
            self._answers.cancel()
            for task in (answering, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async for _ in self._progress():
                pass
            response = JSONResponse(self._format.whole(self._choices), headers=self._format.headers)
        except ApiError as error:
            response = error_response(error)
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        began = False
        try:
            async for chunk in self._chunks():
                if not began:
                    await self._begin(send)
                    began = True
                await _send_event(send, json.dumps(chunk, ensure_ascii=False))
            await _send_event(send, "[DONE]")
        except ApiError as error:
            if not began:  # there is a status to tell it by
                await error_response(error)({"type": "http"}, _nothing, send)
                return
            await _send_event(send, json.dumps(error.body()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        pairs = [(name.encode(), value.encode()) for name, value in (headers | self._format.headers).items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})

    async def _chunks(self) -> AsyncIterator[dict[str, Any]]:
        begun: set[int] = set()
        async for choice, text in self._progress():
            opening = self._format.opening(choice) if choice.index not in begun else None
            begun.add(choice.index)
            if opening:
                yield opening
            if text:
                yield self._format.chunk(choice, text)
            if choice.finish_reason:
                yield self._format.closing(choice)
        if self._body.include_usage:
            yield self._format.counted(self._choices)

    async def _progress(self) -> AsyncIterator[tuple[Choice, str]]:
        """Yield each choice with its new text as it grows; the last time with its finish reason.

        Raises:
            ApiError: an answer failed.
        """
        async for number, arrival in self._answers:
            choice = self._choices[number]
            if choice.finish_reason:  # a stop sequence ended it, and what the endpoint says after that is nothing
                continue
            if isinstance(arrival, WanspecError):
                raise of_upstream(arrival, self._body.names)
            if isinstance(arrival, Answer):
                yield choice, choice.end(arrival)
                continue
            text = choice.add(arrival)
            if choice.finish_reason:
                self._answers.cancel(number)
            yield choice, text


def error_response(error: ApiError) -> JSONResponse:
    """An error as the client gets it."""
    return JSONResponse(error.body(), error.status, error.headers)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_event(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


def _bounded(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await asyncio.wait_for(send(message), STALL_S)

    return sent


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}
