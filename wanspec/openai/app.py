"""The front's HTTP routes: models, completions, chat, health."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from wanspec.openai.errors import SERVER, ApiError, invalid
from wanspec.openai.reply import Reply, error_response
from wanspec.openai.requests import ChatRequest, CompletionRequest, Sampled, read
from wanspec.openai.responses import Choice, Format
from wanspec.openai.settings import FrontSettings
from wanspec.openai.upstream import Ask, Client, Upstream
from wanspec.telemetry.context import TRACEPARENT, TraceContext

MAX_BODY_BYTES = 16 << 20
BODY_TIMEOUT_S = 30.0


USUAL: Mapping[str, Any] = {"temperature": 1.0}
"""OpenAI's default, where the endpoint has another."""


def make_app(client: Client, settings: FrontSettings) -> Starlette:
    """Make the ASGI application. Who stops it sets ``state.stopping`` when answers under way have to end."""
    stopping = asyncio.Event()
    front = _Front(Upstream(client, settings.max_requests), settings, stopping)
    routes = [
        Route("/health", front.health, methods=["GET"]),
        Route("/v1/models", front.models, methods=["GET"]),
        Route("/v1/models/{name:path}", front.model, methods=["GET"]),
        Route("/v1/completions", front.completions, methods=["POST"]),
        Route("/v1/chat/completions", front.chat, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {ApiError: _refused, HTTPException: _no_route, Exception: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=front.lifespan)
    app.state.stopping = stopping
    return app


class _Front:
    def __init__(self, upstream: Upstream, settings: FrontSettings, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._upstream = upstream
        self._settings = settings
        self._usual = {**USUAL, **settings.generation}
        self._model = {
            "id": settings.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "wanspec",
        }

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._upstream.close()

    async def health(self, request: Request) -> Response:
        ready = await self._upstream.ready()
        state = {"status": "ok" if ready else "the endpoint is not ready", "running": self._upstream.running}
        return JSONResponse(state, 200 if ready else 503)

    async def models(self, request: Request) -> Response:
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._model]})

    async def model(self, request: Request) -> Response:
        self._check_key(request)
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model)

    async def completions(self, request: Request) -> Reply:
        return await self._reply(request, CompletionRequest)

    async def chat(self, request: Request) -> Reply:
        return await self._reply(request, ChatRequest)

    async def _reply(self, request: Request, kind: type[Sampled]) -> Reply:
        self._check_key(request)
        body = read(kind, await _json(request))
        self._check_model(body.model)
        prompts, count = body.prompts, body.n or 1
        if len(prompts) * count > self._settings.max_requests:
            field = "n" if count > 1 else body.PROMPT
            raise invalid(
                field, f"{len(prompts) * count} answers are wanted, the limit is {self._settings.max_requests}"
            )
        options = [self._options(body, answer) | _traced(request) for answer in range(count)]
        asks = [Ask(prompt, each) for prompt in prompts for each in options]
        choices = [Choice(index, index // count, body.stop or ()) for index in range(len(asks))]
        form = Format(self._settings.model, chat=kind is ChatRequest)
        return Reply(body, self._upstream.begin(asks), choices, form, self._stopping)

    def _options(self, body: Sampled, answer: int) -> dict[str, Any]:
        options = body.options(self._usual, answer)
        longest_ms = self._settings.timeout_s * 1000.0
        return options | {"deadline_ms": min(longest_ms, options.get("deadline_ms", longest_ms))}

    def _check_key(self, request: Request) -> None:
        key = self._settings.api_key
        given = request.headers.get("authorization", "")
        if key and not hmac.compare_digest(given.encode("latin-1"), f"Bearer {key}".encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _check_model(self, name: str) -> None:
        if name != self._settings.model:
            message = f"model: {name!r} is not served; {self._settings.model!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")


def _traced(request: Request) -> dict[str, str]:
    """What the endpoint is told of the trace that the client's request is part of."""
    part_of = TraceContext.parse(request.headers.get(TRACEPARENT, ""))
    return {} if part_of is None else {TRACEPARENT: str(part_of)}


async def _json(request: Request) -> Any:
    try:
        raw = await asyncio.wait_for(_body(request), BODY_TIMEOUT_S)
    except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
        raise ApiError(408, f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "the client left") from None
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"the body is not JSON: {error}", "invalid_json") from None


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is above the limit of {MAX_BODY_BYTES} bytes", code="request_too_large")
        chunks.append(chunk)
    return b"".join(chunks)


async def _refused(request: Request, error: ApiError) -> Response:
    return error_response(error)


async def _no_route(request: Request, error: HTTPException) -> Response:
    refused = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return error_response(refused, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(ApiError(500, "the front failed; see its log", SERVER))
