"""SmolLM2 in float32 against Hugging Face `generate`, teacher-forced: `wanspec.exactness` has the rule."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration.quick import QuickDeployment
from tests.snippets import snippets
from tests.unit.openai.front import serving
from wanspec.exactness import TOKENS_PER_NEAR_TIE, Exactness, compare, margin
from wanspec.models import resolve
from wanspec.network.shape import LinkShape
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import RegionSettings

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DOCS = Path(__file__).parents[2] / "docs"
OPENAI_DOCS = DOCS / "openai.md"
PROMPTS = (
    "Explain why the sky is blue.",
    "Write a short poem about a river.",
    "What should I cook with eggs, rice and spinach?",
    "Write a Python function that reverses a list.",
    "My neighbour's dog barks all night. What can I do?",
    "Summarise the plot of Romeo and Juliet.",
    "How do I convert miles to kilometres?",
    "Name three differences between cats and dogs.",
)


torch.set_num_threads(1)  # the servers need the other core


class Reference:
    """Greedy decoding by transformers."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._generated: dict[tuple[tuple[int, ...], int], list[int]] = {}

    def prompt(self, text: str) -> list[int]:
        return self.conversation([{"role": "user", "content": text}])

    def conversation(self, messages: list[dict[str, str]]) -> list[int]:
        rendered = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(rendered, add_special_tokens=False).input_ids)

    def generate(self, prompt: list[int], tokens: int) -> list[int]:
        key = (tuple(prompt), tokens)
        if key not in self._generated:
            ids = torch.tensor([prompt])
            output = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=None
            )
            self._generated[key] = output[0, len(prompt) :].tolist()
        return self._generated[key]

    def margin(self, prefix: list[int], token: int) -> float:
        with torch.inference_mode():
            return margin(self._model(torch.tensor([prefix])).logits[0, -1].numpy(), token)


@pytest.fixture(scope="module")
def reference(smollm2_target: Path) -> Reference:
    return Reference(smollm2_target)


@pytest.fixture(scope="module")
def deployment(smollm2_target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    regions = RegionSettings(smollm2_target, resolve("smollm2-draft"))
    with QuickDeployment(
        DeploymentSettings(regions, LinkShape(), log_dir=tmp_path_factory.mktemp("logs"))
    ) as deployment:
        yield deployment


def check(client: WanspecClient, reference: Reference, prompt: str, tokens: int, **options: Any) -> Exactness:
    ids = reference.prompt(prompt)
    expected = reference.generate(ids, tokens)

    def served(prefix: list[int], count: int) -> list[int]:
        return client.ask([*ids, *prefix], max_tokens=count, end_id=-1, **options).result().tokens

    return compare(
        expected,
        served([], tokens),
        lambda position, token: reference.margin([*ids, *expected[:position]], token),
        lambda position: served(expected[:position], tokens - position),
    )


@pytest.mark.timeout(300)
def test_four_prompts(deployment: Deployment, reference: Reference) -> None:
    deployment.relay.set(delay_ms=15.0)
    client = WanspecClient(deployment.controller.grpc_endpoint)
    found = [
        check(client, reference, prompt, 32, policy=policy)
        for prompt, policy in zip(PROMPTS, ("wanspec", "wanspec", "local", "remote_sync"), strict=False)
    ]
    assert all(each.holds for each in found), found


def test_chat_template_is_the_models_own(deployment: Deployment, reference: Reference) -> None:
    client = WanspecClient(deployment.controller.grpc_endpoint)
    by_text = client.ask(PROMPTS[0], chat=True, max_tokens=16, policy="target_only").result()
    by_tokens = client.ask(reference.prompt(PROMPTS[0]), max_tokens=16, policy="target_only").result()
    assert by_text.tokens == by_tokens.tokens
    assert by_text.summary["prompt_tokens"] == len(reference.prompt(PROMPTS[0]))


def test_a_conversation_through_the_openai_front(deployment: Deployment, reference: Reference) -> None:
    turns = [("system", "Be brief."), ("user", "Hello!"), ("assistant", "Hello."), ("user", "Name a river.")]
    messages: Any = [{"role": role, "content": content} for role, content in turns]
    ids = reference.conversation(messages)
    client = WanspecClient(deployment.controller.grpc_endpoint)
    expected = client.ask(ids, max_tokens=12, policy="target_only").result()
    (example,) = re.findall(r"```python\n([^`]*messages=.*?)```", OPENAI_DOCS.read_text(), re.S)
    with serving(client) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60.0) as front:
        asked = {"model": "wanspec", "messages": messages, "max_completion_tokens": 12, "temperature": 0}
        done = front.chat.completions.create(**asked, extra_body={"policy": "target_only"})
        assert done.choices[0].message.content == expected.text
        assert done.usage is not None
        assert done.usage.prompt_tokens == len(ids)
        with pytest.raises(openai.BadRequestError, match=r"max_completion_tokens: .*8192") as caught:
            front.chat.completions.create(**asked | {"max_completion_tokens": 9000})
        assert caught.value.param == "max_completion_tokens"
        code = example.replace("http://127.0.0.1:9000", url)
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert shown.stdout.strip()


def test_the_examples_of_the_documentation_run(deployment: Deployment) -> None:
    """Every block of shell that only asks a running endpoint, as it is shown but for the ports."""
    server = deployment.controller
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "WANSPEC_ENDPOINT__URL": server.grpc_endpoint,
        "WANSPEC_GENERATION__MAX_TOKENS": "4",
    }
    asking = re.compile(r"^(?:printf .*\| )?(?:wanspec (?:generate|chat)\b|curl .*127\.0\.0\.1:8000)")
    pages = [DOCS / name for name in ("quickstart.md", "terminal.md")]
    shown = []
    for each in snippets(*pages):
        lines = each.code.replace("\\\n", " ").splitlines()
        if each.language != "bash" or not all(map(asking.match, lines)):
            continue
        code = each.code.replace("127.0.0.1:8000", f"127.0.0.1:{server.ports.http}")
        done = subprocess.run(
            ["bash", "-euc", code],
            env=environment,
            input="Hello.\n",  # to the first chat that is not given something by a pipe
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (each.name, done.stderr)
        shown.append((each, done.stdout))
    assert {each.page for each, _ in shown} == {page.name for page in pages}
    assert all(output.strip() for each, output in shown), [each.name for each, output in shown if not output.strip()]


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_full_matrix(deployment: Deployment, reference: Reference) -> None:
    client = WanspecClient(deployment.controller.grpc_endpoint)
    found = Exactness(0)
    for rtt_ms in (0, 30, 100):
        deployment.relay.set(delay_ms=rtt_ms / 2)
        for policy in ("target_only", "local", "remote_sync", "wanspec"):
            for prompt in PROMPTS:
                found += check(client, reference, prompt, 64, policy=policy)
    assert all(each.excused for each in found.divergences), found
    assert len(found.divergences) <= found.tokens / TOKENS_PER_NEAR_TIE, found
