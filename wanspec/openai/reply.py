"""The response to one request: JSON at the end, or server-sent events. A client that leaves ends its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from wanspec.errors import WanspecError
from wanspec.openai.errors import SERVER, ApiError, of_upstream
from wanspec.openai.requests import Sampled
from wanspec.openai.responses import Choice, Format
from wanspec.openai.upstream import Answers
from wanspec.triton.client import Answer

logger = logging.getLogger(__name__)

STALL_S = 60.0
"""A client that takes nothing for this long is gone."""


class Reply:
    """An ASGI application for one request: consumes ``answers`` and cancels them if nobody waits any more."""

    def __init__(
        self, body: Sampled, answers: Answers, choices: Sequence[Choice], form: Format, stopping: asyncio.Event
    ) -> None:
        """``stopping`` is set when the server can wait no longer."""
        self._stopping = stopping
        self._body = body
        self._answers = answers
        self._choices = choices
        self._format = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        client = _Client(send)
        answering = asyncio.ensure_future(self._answer(client))
        gone = asyncio.ensure_future(_disconnected(receive))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({answering, gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
            elif gone.done():
                logger.info("the client left before its answer was complete")
            else:
                await _end(answering)
                await client.fail(ApiError(503, "the server stops; try again later", SERVER, code="stopping"))
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            logger.warning("a client took nothing for %g s: dropped", STALL_S)
        finally:
            self._answers.cancel()
            for task in (answering, gone, stopping):
                await _end(task)

    async def _answer(self, client: _Client) -> None:
        try:
            await (self._stream(client) if self._body.stream else self._whole(client))
        except ApiError as error:
            await client.fail(error)

    async def _whole(self, client: _Client) -> None:
        async for _ in self._progress():
            pass
        await client.respond(JSONResponse(self._format.whole(self._choices), headers=self._format.headers))

    async def _stream(self, client: _Client) -> None:
        null_usage = {"usage": None} if self._body.include_usage else {}
        async for chunk in self._chunks():  # that there is one tells the status
            if not client.began:
                await client.begin_events(self._format.headers)
            # All but ASCII escaped: some clients take U+2028 for the end of a line.
            await client.event(json.dumps(null_usage | chunk))
        await client.event("[DONE]", last=True)

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


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as the client gets it, with ``headers`` beside its own."""
    return JSONResponse(error.body(), error.status, {**error.headers, **(headers or {})})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


class _Client:
    """The way back to the client; whoever takes nothing for a while makes it raise a timeout.

    Attributes:
        began: the response has a status already.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.began = False

    async def respond(self, response: JSONResponse) -> None:
        await response({"type": "http"}, _no_message, self._bounded)

    async def begin_events(self, more: Mapping[str, str]) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **more}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._bounded({"type": "http.response.start", "status": 200, "headers": pairs})

    async def event(self, data: str, *, last: bool = False) -> None:
        await self._bounded({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": not last})

    async def fail(self, error: ApiError) -> None:
        """Tell an error: by the status, or where there is one already by an event."""
        if self.began:
            await self.event(json.dumps(error.body()), last=True)
        else:
            await self.respond(error_response(error))

    async def _bounded(self, message: Message) -> None:
        self.began = self.began or message["type"] == "http.response.start"
        await asyncio.wait_for(self._send(message), STALL_S)


async def _no_message() -> Message:
    return {"type": "http.disconnect"}
