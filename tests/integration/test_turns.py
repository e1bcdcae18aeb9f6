"""Conversations on real servers: what a later turn sends, what it computes, and that it is the target's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.integration.nvidia_clients import ask, one, text_inputs
from tests.unit.cli.test_cli_endpoint_docs import tensors
from wanspec.engines.prefix_pool import TOKENS_PER_BLOCK
from wanspec.triton.client import Answer, WanspecClient
from wanspec.triton.deployment import Deployment

TURNS, FIRST, WORDS, ANSWER = 5, 300, 24, 16
COMMIT_BYTES = 5 + 22  # of a message, before its tokens
OPEN_BYTES = 5 + 74 + 2
TOKEN_BYTES = 4
TEXT = "It was a truth which nobody in the village"
SHOWN = ("bytes_up", "rounds", "remote_prefill_tokens", "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks")


def bytes_at_relay(small: Deployment) -> int:
    return small.relay.stats().up.bytes


def talk(small: Deployment, client: WanspecClient, salt: int, **options: Any) -> list[tuple[list[int], Answer, int]]:
    """The prompt, the answer, and the bytes towards the worker at the relay, of each turn of a conversation."""
    prompt = [1 + (salt * 997 + place * 23) % 4000 for place in range(FIRST)]  # no other test's
    turns = []
    for turn in range(TURNS):
        before = bytes_at_relay(small)
        answer = client.ask(prompt, max_tokens=ANSWER, policy="remote_sync", end_id=-1, **options).result()
        turns.append((prompt, answer, bytes_at_relay(small) - before))
        words = [1 + (salt * 37 + turn * 101 + place * 13) % 4000 for place in range(WORDS)]
        prompt = [*prompt, *answer.tokens, *words]
    return turns


@pytest.mark.parametrize("options", [{"conversation_id": "talk"}, {}], ids=["conversation_id", "by prefix"])
def test_turn_five_sends_and_computes_its_suffix(
    small: Deployment, client: WanspecClient, options: dict[str, Any], record_property: Any
) -> None:
    turns = talk(small, client, 7 if options else 8, **options)
    (_, first, _), (prompt, fifth, relayed) = turns[0], turns[-1]
    suffix = WORDS + ANSWER  # of the last answer the worker was told all but what its last round committed
    begun, five = first.summary, fifth.summary
    record_property("turn 5", {"prompt": len(prompt), "relayed_up": relayed, **{name: five[name] for name in SHOWN}})
    record_property("turn 1", {"prompt": FIRST, **{name: begun[name] for name in SHOWN}})
    # Towards the worker; the relay sees the pings and the framing of gRPC as well.
    assert begun["bytes_up"] > TOKEN_BYTES * FIRST
    most = OPEN_BYTES + TOKEN_BYTES * (suffix + ANSWER) + COMMIT_BYTES * five["rounds"] + 5 + 8
    assert five["bytes_up"] <= most < TOKEN_BYTES * len(prompt)
    assert relayed >= five["bytes_up"]
    # In its draft engine
    assert begun["remote_prefill_tokens"] >= FIRST
    assert WORDS < five["remote_prefill_tokens"] <= suffix
    # In the target's engine, which counts blocks
    assert begun["kv_cache_alloc_new_blocks"] >= FIRST // TOKENS_PER_BLOCK
    assert five["kv_cache_alloc_new_blocks"] <= -(-suffix // TOKENS_PER_BLOCK)
    assert five["kv_cache_reused_blocks"] >= (len(prompt) - suffix) // TOKENS_PER_BLOCK
    assert five["lost"] == {}
    assert sum(answer.summary["accepted_remote"] for _, answer, _ in turns) > 0
    for asked, answer, _ in turns:
        alone = client.ask(asked, max_tokens=ANSWER, policy="target_only", end_id=-1).result()
        assert answer.tokens == alone.tokens


def test_a_conversation_goes_on_after_the_link_was_cut(small: Deployment, client: WanspecClient) -> None:
    prompt = [1 + place * 19 % 4000 for place in range(200)]
    first = client.ask(prompt, max_tokens=8, policy="remote_sync", end_id=-1, conversation_id="cut").result()
    small.relay.set(state="off")
    small.relay.set(state="on")
    prompt = [*prompt, *first.tokens, 5, 6, 7]
    answer = client.ask(prompt, max_tokens=24, policy="wanspec", end_id=-1, conversation_id="cut").result()
    assert answer.tokens == client.ask(prompt, max_tokens=24, policy="target_only", end_id=-1).result().tokens
    assert answer.summary["lost"] == {}


def test_the_served_model_has_the_tensors_of_the_documentation(small: Deployment) -> None:
    config = triton.InferenceServerClient(small.controller.grpc_endpoint).get_model_config("wanspec").config
    for kind, served in (("input", config.input), ("output", config.output)):
        data_type = served[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        found = {
            tensor.name: (
                data_type[tensor.data_type].name.removeprefix("TYPE_"),
                str(list(tensor.dims)),
                bool(getattr(tensor, "optional", False)),
            )
            for tensor in served
        }
        assert found == {name: (row[2], row[3], row[4] == "yes") for name, row in tensors(kind).items()}


def test_what_nvidias_end_to_end_client_sends_is_served(small: Deployment, client: WanspecClient) -> None:
    alone = client.ask(TEXT, max_tokens=12, policy="target_only").result()
    with triton.InferenceServerClient(small.controller.grpc_endpoint) as nvidia:
        (result,) = ask(nvidia, "wanspec", text_inputs([TEXT], 12, top_k=one(1, np.int32)), "text_output")
    assert result.as_numpy("text_output")[0, 0].decode() == TEXT + alone.text


def test_metrics_and_the_prompt_in_the_answer(client: WanspecClient) -> None:
    options = {"max_tokens": 12, "end_id": -1, "return_perf_metrics": True, "policy": "local", "num_draft_tokens": 3}
    answer = client.ask(TEXT, exclude_input_in_output=False, **options).result()
    alone = client.ask(TEXT, max_tokens=12, end_id=-1, num_draft_tokens=0).result()
    assert alone.summary["policy"] == "target_only"
    assert answer.text == TEXT + alone.text
    assert answer.tokens[-12:] == alone.tokens
    assert len(answer.tokens) == answer.prompt_tokens + 12
    metrics, summary = answer.perf_metrics, answer.summary
    assert metrics["total_draft_tokens"] == summary["drafted_local"] > 0
    assert metrics["acceptance_rate"] == np.float32(summary["accepted_local"] / summary["drafted_local"])
    assert metrics["arrival_time_ns"] < metrics["first_token_time_ns"] < metrics["last_token_time_ns"]
    assert metrics["kv_cache_alloc_new_blocks"] + metrics["kv_cache_reused_blocks"] == 1
