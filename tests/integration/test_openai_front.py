"""`wanspec serve-openai` over real servers, as OpenAI's own client and the documentation's examples use it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.conftest import wait_for_worker
from tests.integration.prompts import PROMPTS
from tests.integration.test_cli_servers import WANSPEC
from tests.unit.openai.front import serving, wait_until
from wanspec.network.ports import reserve_ports
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment

FOLDER = Path(__file__).parents[2] / "docs"
DOCS = "".join((FOLDER / page).read_text() for page in ("openai.md", "quickstart.md"))
STARTED_S, ENDED_S = 30.0, 10.0


@dataclass
class Front:
    process: subprocess.Popen[str]
    root: str
    client: openai.OpenAI

    def running(self) -> int:
        """Answers under way."""
        with urllib.request.urlopen(f"{self.root}/health", timeout=10) as response:
            return int(json.load(response)["running"])


@pytest.fixture(scope="module")
def front(small: Deployment) -> Iterator[Front]:
    command = [*WANSPEC, "serve-openai", "--json", "--url", small.controller.grpc_endpoint]
    with (
        reserve_ports(1) as (port,),
        subprocess.Popen([*command, f"--port={port}"], stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            base = json.loads(process.stdout.readline())["base_url"]
            with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60.0) as client:
                found = Front(process, base.removesuffix("/v1"), client)
                wait_until(lambda: reached(found))
                yield found
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENDED_S) == 143
        finally:
            process.kill()


def reached(front: Front) -> bool:
    try:
        return front.running() == 0
    except OSError:
        return False


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 11}])
@pytest.mark.parametrize("policy", ["wanspec", "adaptive"])
def test_text_is_the_targets_own(front: Front, client: WanspecClient, options: dict[str, Any], policy: str) -> None:
    expected = client.ask(PROMPTS[3], max_tokens=24, policy="target_only", **options).result()
    own = {"policy": policy, "return_summary": True}
    done = front.client.completions.create(model="wanspec", prompt=PROMPTS[3], max_tokens=24, extra_body=own, **options)
    choice = done.choices[0]
    assert choice.text == expected.text
    assert choice.model_extra is not None
    assert choice.model_extra["summary"]["policy"] == policy
    assert done.usage is not None
    assert done.usage.prompt_tokens == expected.prompt_tokens == expected.summary["prompt_tokens"] > 0
    assert (done.usage.completion_tokens, choice.finish_reason) == (len(expected.tokens), expected.finish_reason)


def test_streamed_in_pieces_with_usage(front: Front, client: WanspecClient) -> None:
    expected = client.ask(PROMPTS[5], max_tokens=24, policy="target_only").result()
    stream = front.client.completions.create(
        model="wanspec",
        prompt=PROMPTS[5],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, counted = list(stream)
    assert len(chunks) > 4
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text
    assert counted.usage is not None
    assert counted.usage.completion_tokens == len(expected.tokens)


def test_several_answers_have_seeds_of_their_own(front: Front, client: WanspecClient) -> None:
    texts = [client.ask(PROMPTS[7], max_tokens=12, temperature=1.0, seed=seed).result().text for seed in (5, 6)]
    done = front.client.completions.create(model="wanspec", prompt=PROMPTS[7], max_tokens=12, seed=5, n=2)
    assert [choice.text for choice in done.choices] == texts
    assert texts[0] != texts[1]


def test_a_stop_sequence_ends_the_answer_before_it(front: Front, client: WanspecClient) -> None:
    whole = client.ask(PROMPTS[0], max_tokens=200, end_id=-1, policy="target_only").result().text
    stop = whole[20:24]
    done = front.client.completions.create(
        model="wanspec", prompt=PROMPTS[0], max_tokens=900, temperature=0, stop=[stop], extra_body={"min_tokens": 200}
    )
    assert done.choices[0].text == whole[: whole.index(stop)]
    assert done.choices[0].finish_reason == "stop"
    wait_until(lambda: front.running() == 0, 5.0)


def test_a_client_that_leaves_ends_the_request(front: Front, client: WanspecClient) -> None:
    long = {"max_tokens": 900, "temperature": 0, "extra_body": {"min_tokens": 900, "policy": "target_only"}}
    stream = front.client.completions.create(model="wanspec", prompt=PROMPTS[1], stream=True, **long)
    next(iter(stream))
    assert front.running() == 1
    stream.close()
    wait_until(lambda: front.running() == 0, 2.0)
    with pytest.raises(openai.APITimeoutError):
        front.client.with_options(timeout=0.3).completions.create(model="wanspec", prompt=PROMPTS[1], **long)
    wait_until(lambda: front.running() == 0, 2.0)
    wait_for_worker(client)


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"extra_body": {"policy": "magic"}}, "policy", "invalid_value"),
        ({"extra_body": {"policy": "local", "policy_parameters": {"k": 99}}}, "policy_parameters.k", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"logprobs": 2}, "logprobs", "unsupported_parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(front: Front, options: dict[str, Any], param: str, code: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        front.client.completions.create(**{"model": "wanspec", "prompt": "x", "stream": stream, **options})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_chat_needs_a_template(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="small-target has no chat template") as caught:
        front.client.chat.completions.create(model="wanspec", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.param == "messages"


def test_a_deadline_is_status_504(front: Front) -> None:
    with pytest.raises(openai.InternalServerError, match="50 ms have passed") as caught:
        front.client.completions.create(
            model="wanspec", prompt="x", max_tokens=900, extra_body={"deadline_ms": 50, "min_tokens": 900}
        )
    assert caught.value.status_code == 504


def test_the_examples_of_the_documentation_run(front: Front) -> None:
    blocks = re.findall(r"```(bash|python)\n(.*?)```", DOCS, re.S)
    examples = [block for block in blocks if "http://127.0.0.1:9000" in block[1] and "messages" not in block[1]]
    assert [language for language, _ in examples] == ["bash", "python", "python"]
    for language, code in examples:
        code = code.replace("http://127.0.0.1:9000", front.root)
        command = ["bash", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        if language == "bash":
            assert json.loads(done.stdout)["choices"][0]["text"].strip()
        elif "return_summary" in code:
            assert re.search(r"rounds: \d+\ntokens: \d+\n", done.stdout)
        else:
            assert done.stdout.strip()


def test_an_endpoint_that_is_not_there_is_status_503() -> None:
    with reserve_ports(1) as (port,), serving(WanspecClient(f"127.0.0.1:{port}")) as url:
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as caught,
        ):
            client.completions.create(model="wanspec", prompt="x")
        assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "1")
