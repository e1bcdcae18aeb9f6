"""Answers that end before they are complete: who left, who stopped."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.unit.openai.front import Endpoint, client_of, serving, wait_until
from wanspec.openai.reply import Reply
from wanspec.openai.requests import CompletionRequest, read
from wanspec.openai.responses import Choice, Format
from wanspec.openai.serve import bind
from wanspec.openai.upstream import Ask, Upstream


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_request(url: str, endpoint: Endpoint, stream: bool) -> None:
    endpoint.play("a", "WAIT", "b")
    body = json.dumps({"model": "wanspec", "prompt": "x", "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: bool(endpoint.played and endpoint.played[0].taken))
        assert not endpoint.played[0].interrupted.is_set()
    wait_until(endpoint.played[0].interrupted.is_set)
    wait_until(lambda: json.load(urllib.request.urlopen(f"{url}/health", timeout=5))["running"] == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_takes_nothing_is_dropped(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec.openai.reply.STALL_S", 0.05)
    endpoint = Endpoint("a", "b", "WAIT" if stream else "c")

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    async def answered() -> None:
        upstream = Upstream(endpoint, 1)  # type: ignore[arg-type]
        body = read(CompletionRequest, {"model": "wanspec", "prompt": "x", "stream": stream})
        answers = upstream.begin([Ask("x", body.options({}, 0))])
        reply = Reply(body, answers, [Choice(0, 0, ())], Format("wanspec", chat=False), asyncio.Event())
        await asyncio.wait_for(reply({"type": "http"}, never, never), 5.0)
        while upstream.running:
            await asyncio.sleep(0.01)
        upstream.close()

    asyncio.run(asyncio.wait_for(answered(), 10.0))
    assert endpoint.played[0].interrupted.is_set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_stops_says_so(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec.openai.serve.END_S", 0)
    endpoint = Endpoint("a", "WAIT")
    with ThreadPoolExecutor(1) as pool:
        with serving(endpoint) as url:
            waiting = pool.submit(told, url, {"model": "wanspec", "prompt": "x", "stream": stream})
            wait_until(lambda: bool(endpoint.played and endpoint.played[0].taken))
        text, error = waiting.result()
        assert text == ("a" if stream else "")
        assert error.endswith("the server stops; try again later")
        assert endpoint.played[0].interrupted.is_set()


def told(url: str, body: dict[str, Any]) -> tuple[str, str]:
    """The text that came, and then the error."""
    text = ""
    try:
        with client_of(url) as client:
            for chunk in client.completions.create(**body):
                text += chunk.choices[0].text
    except openai.APIError as error:
        return text, error.message
    return text, ""


def test_small_pieces_leave_at_once() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
