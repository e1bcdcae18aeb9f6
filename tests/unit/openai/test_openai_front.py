"""The front as OpenAI's own client sees it, over an endpoint that is played."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.unit.openai.front import Endpoint, serving, wait_until
from wanspec.errors import DeadlineError, InvalidRequestError, ServerError, UnavailableError
from wanspec.openai.reply import Reply
from wanspec.openai.requests import CompletionRequest, read
from wanspec.openai.responses import Choice, Format
from wanspec.openai.serve import bind
from wanspec.openai.upstream import Ask, Upstream

QUESTION: Any = [{"role": "user", "content": "Why?"}]


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20.0)


@pytest.fixture(scope="module")
def front() -> Iterator[tuple[Endpoint, str]]:
    endpoint = Endpoint()
    with serving(endpoint, max_requests=4) as url:
        yield endpoint, url


@pytest.fixture
def endpoint(front: tuple[Endpoint, str]) -> Endpoint:
    front[0].play("Be", "cause", " it is.")
    return front[0]


@pytest.fixture
def url(front: tuple[Endpoint, str]) -> str:
    return front[1]


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as client:
        yield client


def post(url: str, body: bytes, path: str = "/v1/completions") -> tuple[int, dict[str, Any], dict[str, str]]:
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


def test_completion(client: openai.OpenAI, endpoint: Endpoint) -> None:
    done = client.completions.create(model="wanspec", prompt="Why", seed=3)
    assert Completion.model_validate(done.model_dump(), strict=True)
    assert (done.object, done.choices[0].text, done.choices[0].finish_reason) == (
        "text_completion",
        "Because it is.",
        "stop",
    )
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (5, 3, 8)
    asked = {"max_tokens": 16, "temperature": 1.0, "seed": 3, "summary": False, "deadline_ms": 600_000.0}
    assert endpoint.asked == [("Why", asked | {"policy_parameters": None})]


def test_chat(client: openai.OpenAI, endpoint: Endpoint) -> None:
    said: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        *QUESTION,
    ]
    done = client.chat.completions.create(model="wanspec", messages=said, max_completion_tokens=9, temperature=0)
    assert ChatCompletion.model_validate(done.model_dump(), strict=True)
    assert done.choices[0].message.content == "Because it is."
    assert done.object == "chat.completion"
    ((prompt, options),) = endpoint.asked
    assert prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert (options["max_tokens"], options["temperature"]) == (9, 0)


def test_streamed_chat_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="wanspec", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert all(ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True) for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    *said, last, counted = chunks
    assert [chunk.choices[0].delta.content for chunk in said] == ["", "Be", "cause", " it is."]
    assert said[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "stop"
    assert (counted.choices, counted.usage and counted.usage.total_tokens) == ([], 8)


def test_streamed_completion_without_usage(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="wanspec", prompt="Why", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Because it is."
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_several_prompts_and_several_answers(client: openai.OpenAI, endpoint: Endpoint) -> None:
    done = client.completions.create(model="wanspec", prompt=[[1, 2], [3]], n=2, seed=(1 << 63) - 1)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in done.choices} == {"Because it is."}
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (10, 12)
    asked = sorted((prompt, options["seed"]) for prompt, options in endpoint.asked)
    assert asked == [([1, 2], (1 << 63) - 1), ([1, 2], 1 << 63), ([3], (1 << 63) - 1), ([3], 1 << 63)]
    streamed = client.completions.create(model="wanspec", prompt="Why", n=2, stream=True)
    texts = {0: "", 1: ""}
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert set(texts.values()) == {"Because it is."}


def test_the_endpoints_own_parameters(client: openai.OpenAI, endpoint: Endpoint) -> None:
    own = {"policy": "local", "policy_parameters": {"k": 3}, "top_k": 5, "deadline_ms": 900, "return_summary": True}
    done = client.completions.create(model="wanspec", prompt="Why", logit_bias={"42": -5}, extra_body=own)
    assert done.choices[0].model_extra == {"summary": {"rounds": 3}}
    options = endpoint.asked[0][1]
    assert {name: options[name] for name in own if name in options} | {"return_summary": options["summary"]} == own
    assert options["logit_bias"] == {42: -5.0}


def test_a_stop_sequence_is_cut_off_and_ends_the_request(client: openai.OpenAI, endpoint: Endpoint) -> None:
    endpoint.play("one t", "wo th", "ree", "WAIT")
    done = client.completions.create(model="wanspec", prompt="Count", stop=["zero", " three"])
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("one two", "stop")
    assert done.usage is not None
    assert done.usage.completion_tokens == 3
    wait_until(endpoint.played[0].interrupted.is_set)


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


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"policy": "local", "policy_parameters": {"k": 3}, "temperature": 0, "max_tokens": 7}),
        ({"policy_parameters": {"k": 4}}, {"policy": "local", "policy_parameters": {"k": 4}}),
        ({"policy": "local"}, {"policy": "local", "policy_parameters": {"k": 3}}),
        ({"policy": "wanspec"}, {"policy": "wanspec", "policy_parameters": None}),
        ({"policy": "wanspec", "policy_parameters": {"phi": 1}}, {"policy_parameters": {"phi": 1}}),
        ({"temperature": 0.5, "max_tokens": 3}, {"temperature": 0.5, "max_tokens": 3}),
    ],
)
def test_what_is_usual_here_applies_to_requests_that_do_not_say(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    usual = {"policy": "local", "policy_parameters": {"k": 3}, "temperature": 0, "max_tokens": 7}
    body = read(CompletionRequest, {"model": "wanspec", "prompt": "x", **asked})
    assert sent.items() <= body.options(usual, 0).items()


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"prompt": 5}, "prompt", "str"),
        ({"prompt": [1, 1 << 31]}, "prompt[1]", "less than"),
        ({"prompt": "\ud800"}, None, "not JSON"),
        ({"top_k": -(1 << 40)}, "top_k", "greater than"),
        ({"temperature": float("1e999")}, None, "not JSON"),
        ({"max_tokens": "many"}, "max_tokens", "integer"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 5}, "n", "5 answers are wanted, the limit is 4"),
        ({"prompt": ["x"] * 5}, "prompt", "the limit is 4"),
        ({"stop": [""]}, "stop[0]", "at least 1 character"),
        ({"stop": ["x"] * 65}, "stop", "at most 64"),
        ({"frobnicate": 1}, "frobnicate", "is not a parameter"),
        ({"logprobs": 0}, "logprobs", "not supported"),
        ({"echo": True}, "echo", "not supported"),
        ({"best_of": True}, "best_of", "not supported"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x' is not a token id"),
        ({"stream_options": {}}, "stream_options", "stream = true"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "is not a parameter"),
        ({"policy_parameters": {"k": [1]}}, "policy_parameters.k", "valid"),
    ],
)
def test_bad_requests_name_the_parameter(
    url: str, endpoint: Endpoint, more: dict[str, Any], param: str | None, said: str
) -> None:
    status, answer, _ = post(url, json.dumps({"model": "wanspec", "prompt": "x", **more}).encode())
    error = answer["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param is None or error["message"].startswith(f"{param}: ")
    assert said in error["message"]
    assert endpoint.asked == []


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_bad_messages_are_named(url: str, message: dict[str, Any], param: str) -> None:
    status, answer, _ = post(
        url, json.dumps({"model": "wanspec", "messages": [message]}).encode(), "/v1/chat/completions"
    )
    assert (status, answer["error"]["param"]) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": NaN}', b"[" * 100_000, b'{"model": "\xff"}'])
def test_what_is_not_a_json_object(url: str, body: bytes) -> None:
    status, answer, _ = post(url, body)
    assert status == 400
    assert answer["error"]["message"].startswith("the body is not")


def test_neutral_values_of_what_is_not_served_pass(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model="wanspec",
        messages=QUESTION,
        logprobs=False,
        tools=[],
        response_format={"type": "text"},
        user="me",
        stop=None,
    )
    assert done.choices[0].message.content


@pytest.mark.parametrize(
    ("error", "kind", "param"),
    [
        (InvalidRequestError("text_input", "is empty"), openai.BadRequestError, "prompt"),
        (InvalidRequestError("policy_parameters.k", "99 is outside"), openai.BadRequestError, "policy_parameters.k"),
        (UnavailableError("connection refused"), openai.InternalServerError, None),
        (DeadlineError("too late"), openai.InternalServerError, None),
        (ServerError("broken"), openai.InternalServerError, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_endpoint(
    client: openai.OpenAI,
    endpoint: Endpoint,
    error: Exception,
    kind: type[openai.APIStatusError],
    param: str,
    stream: bool,
) -> None:
    endpoint.play(error)
    with pytest.raises(kind) as caught:
        client.completions.create(model="wanspec", prompt="x", stream=stream)
    assert caught.value.param == param
    status = {UnavailableError: 503, DeadlineError: 504, ServerError: 502}.get(type(error), 400)
    assert caught.value.status_code == status
    assert (caught.value.response.headers.get("retry-after") == "1") == (status == 503)


def test_a_body_that_does_not_come_or_is_too_large(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec.openai.app.MAX_BODY_BYTES", 1000)
    status, answer, _ = post(url, b"x" * 1001)
    assert (status, answer["error"]["code"]) == (413, "request_too_large")
    monkeypatch.setattr("wanspec.openai.app.BODY_TIMEOUT_S", 0.05)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


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


def test_an_error_in_the_middle_of_a_stream_is_told_there(client: openai.OpenAI, endpoint: Endpoint) -> None:
    endpoint.play("a", ServerError("broken"))
    stream = client.completions.create(model="wanspec", prompt="x", stream=True)
    assert next(stream).choices[0].text == "a"
    with pytest.raises(openai.APIError, match="broken"):
        next(stream)


def test_more_than_fits_is_busy(url: str, endpoint: Endpoint) -> None:
    endpoint.play("a", "WAIT")
    body = json.dumps({"model": "wanspec", "prompt": "x", "n": 3}).encode()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, url, body)
        wait_until(lambda: len(endpoint.played) == 3)
        status, answer, headers = post(url, body)
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "busy", "1")
        for played in endpoint.played:
            played.interrupt()
        assert waiting.result()[0] == 502


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


def test_keys_models_and_health() -> None:
    endpoint = Endpoint("a")
    with serving(endpoint, api_key="secret", model="mine") as url, client_of(url, "secret") as client:
        assert [model.id for model in client.models.list()] == ["mine"]
        assert client.models.retrieve("mine").owned_by == "wanspec"
        assert client.completions.create(model="mine", prompt="x").model == "mine"
        with pytest.raises(openai.NotFoundError, match="'other' is not served; 'mine' is") as missing:
            client.completions.create(model="other", prompt="x")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with client_of(url, "wrong") as stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        assert json.load(urllib.request.urlopen(f"{url}/health", timeout=5)) == {"status": "ok", "running": 0}
        endpoint.up = False
        status, answer, _ = post(url, b"", "/nowhere")
        assert (status, answer["error"]["type"]) == (404, "invalid_request_error")
        with pytest.raises(urllib.error.HTTPError) as down:
            urllib.request.urlopen(f"{url}/health", timeout=5)
        assert down.value.code == 503
        down.value.close()
