"""The front as OpenAI's own client sees it, over an endpoint that is played."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.unit.openai.front import Endpoint, serving, wait_until
from wanspec.openai.requests import CompletionRequest, read

QUESTION: Any = [{"role": "user", "content": "Why?"}]


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


def test_the_client_s_trace_goes_on(client: openai.OpenAI, endpoint: Endpoint) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    for header, passed in ((traceparent, traceparent), ("nonsense", None)):
        client.completions.create(model="wanspec", prompt="Why", extra_headers={"traceparent": header})
        assert endpoint.asked[-1][1].get("traceparent") == passed


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


def test_events_are_lines_whatever_the_text_and_hold_null_where_usage_comes_later() -> None:
    asked = {"model": "wanspec", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    with serving(Endpoint("one\u2028line", "\u0085é")) as url:
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(asked).encode())
        with urllib.request.urlopen(request, timeout=5) as response:
            body = response.read().decode()
    events = [json.loads(line[6:]) for line in body.splitlines() if line and line != "data: [DONE]"]
    assert "".join(e["choices"][0]["text"] for e in events if e["choices"]) == "one\u2028line\u0085é"
    assert [e["usage"] is None for e in events] == [True] * (len(events) - 1) + [False]


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
