"""Bad input gets an error that names field and limit, and disturbs nobody."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.prompts import PROMPTS
from wanspec.errors import InvalidRequestError, ModelError, ServerError
from wanspec.models import resolve
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment, DeploymentSettings
from wanspec.triton.regions import RegionSettings

BAD: list[tuple[Any, dict[str, Any], str, str]] = [
    ("", {}, "text_input", "at least 1"),
    ([], {}, "input_ids", "at least 1"),
    ("hello", {"max_tokens": 0}, "max_tokens", "limit of 1"),
    ("hello", {"max_tokens": -3}, "max_tokens", "limit of 1"),
    ("hello", {"max_tokens": 5000}, "max_tokens", "context of the target is 1024"),
    ([5] * 1024, {"max_tokens": 1}, "max_tokens", "context of the target is 1024"),
    ([1, 4096], {"max_tokens": 4}, "input_ids", "0 to 4095"),
    ([-1], {"max_tokens": 4}, "input_ids", "0 to 4095"),
    ("hello", {"policy": "magic"}, "policy", "target_only, local, local_adaptive, remote_sync, wanspec, adaptive"),
    ("hello", {"policy": "wanspec", "policy_parameters": {"k": 0}}, "policy_parameters.k", "1 to 32"),
    ("hello", {"policy": "wanspec", "policy_parameters": {"depth": 3}}, "policy_parameters.depth", "max_depth"),
    ("hello", {"policy": "wanspec", "policy_parameters": {"rule": "mine"}}, "policy_parameters.rule", "listing, text"),
    (b"caf\xe9 \xff", {}, "text_input", "not UTF-8: byte 3"),
    ("hello", {"chat": True}, "chat", "no chat template"),
    ("hello", {"deadline_ms": -1.0}, "deadline_ms", "0 ms or more"),
]


@pytest.mark.parametrize(("prompt", "options", "field", "limit"), BAD)
def test_error_names_field_and_limit(
    client: WanspecClient, prompt: Any, options: dict[str, Any], field: str, limit: str
) -> None:
    with pytest.raises(InvalidRequestError, match=field.replace(".", r"\.")) as caught:
        client.ask(prompt, **options).result()
    assert caught.value.field == field
    assert limit in str(caught.value)


def test_others_are_undisturbed(client: WanspecClient) -> None:
    expected = client.ask(PROMPTS[2], max_tokens=60, end_id=-1, policy="target_only").result().tokens
    running = client.ask(PROMPTS[2], max_tokens=60, end_id=-1)
    for prompt, options, _, _ in BAD:
        with pytest.raises(InvalidRequestError):
            client.ask(prompt, **options).result()
    assert running.result().tokens == expected


def test_deadline_ends_a_request(client: WanspecClient) -> None:
    with pytest.raises(ServerError, match="deadline_ms: 50 ms have passed"):
        client.ask(PROMPTS[0], max_tokens=900, end_id=-1, policy="target_only", deadline_ms=50.0).result()


def test_unknown_model_folder_and_foreign_tokenizer_are_refused_at_start(tmp_path: Any, smollm2_target: Any) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        Deployment(DeploymentSettings(RegionSettings(tmp_path / "nowhere", resolve("small-draft"))))
    with pytest.raises(ModelError, match="vocab"):
        Deployment(DeploymentSettings(RegionSettings(resolve("small-target"), smollm2_target)))
