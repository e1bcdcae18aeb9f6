"""What the front does not serve, and what the endpoint does not: OpenAI's errors."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.unit.openai.front import Endpoint, client_of, post, serving, wait_until
from wanspec.errors import BusyError, DeadlineError, InvalidRequestError, ServerError, UnavailableError

QUESTION: Any = [{"role": "user", "content": "Why?"}]


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
        (BusyError("64 requests are under way"), openai.InternalServerError, None),
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
    assert caught.value.code == "busy" or not isinstance(error, BusyError)
    status = {UnavailableError: 503, BusyError: 503, DeadlineError: 504, ServerError: 502}.get(type(error), 400)
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
        status, answer, headers = post(url, b"", "/v1/models")
        assert (status, answer["error"]["type"], set(headers["allow"].split(", "))) == (
            405,
            "invalid_request_error",
            {"GET", "HEAD"},
        )
        with pytest.raises(urllib.error.HTTPError) as down:
            urllib.request.urlopen(f"{url}/health", timeout=5)
        assert down.value.code == 503
        down.value.close()
