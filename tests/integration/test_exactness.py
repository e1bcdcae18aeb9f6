"""Output equals target-only decoding, whatever drafts, over whatever path."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.prompts import PROMPTS
from wanspec.core.replay import replay
from wanspec.core.tree import Origin
from wanspec.triton.client import Answer, WanspecClient
from wanspec.triton.deployment import Deployment

TOKENS = 24
AT_ONCE = 20
POLICIES = ("local", "local_adaptive", "remote_sync", "wanspec", "adaptive")


def ask_all(client: WanspecClient, policy: str, tokens: int = TOKENS) -> list[Answer]:
    def ask(prompt: str) -> Answer:
        return client.ask(prompt, max_tokens=tokens, policy=policy, end_id=-1).result()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, PROMPTS))


@pytest.fixture(scope="module")
def reference(small: Deployment) -> list[Answer]:
    return ask_all(WanspecClient(small.controller.grpc_endpoint), "target_only")


@pytest.mark.parametrize(
    ("policy", "rtt_ms"),
    # Without a worker the WAN is nothing: that is shown with `local`.
    [(policy, rtt) for policy in POLICIES for rtt in (0, 30, 100) if policy != "local_adaptive" or rtt == 0],
)
def test_output_equals_target_only(
    small: Deployment, client: WanspecClient, reference: list[Answer], policy: str, rtt_ms: int
) -> None:
    small.relay.set(delay_ms=rtt_ms / 2)
    answers = ask_all(client, policy)
    for prompt, answer, expected in zip(PROMPTS, answers, reference, strict=True):
        assert answer.tokens == expected.tokens, prompt
        assert answer.text == expected.text, prompt
        assert len(answer.tokens) == len(answer.origins) == TOKENS
        if "adaptive" not in policy:  # those may find that drafting does not pay on this machine
            assert answer.summary["rounds"] < TOKENS, "something was accepted"
    if policy == "remote_sync":
        assert sum(answer.summary["accepted_remote"] for answer in answers) > len(answers)
        assert not any(
            answer.summary["local_draft_passes"] for answer in answers if not answer.summary["wait_timeouts"]
        )
    if policy == "local":
        assert not any(answer.summary["remote_draft_passes"] for answer in answers)


def test_target_only_is_the_engines_own_generation(reference: list[Answer], small: Deployment) -> None:
    import numpy as np
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(small.controller.grpc_endpoint)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(small.settings.regions.target_dir / "tokenizer.json"))
    for prompt, expected in zip(PROMPTS[:4], reference, strict=False):
        ids = tokenizer.encode(prompt).ids
        values = {"input_ids": [ids], "input_lengths": [[len(ids)]], "request_output_len": [[TOKENS]]}
        inputs = []
        for name, value in values.items():
            tensor = triton.InferInput(name, list(np.shape(value)), "INT32")
            tensor.set_data_from_numpy(np.array(value, dtype=np.int32))
            inputs.append(tensor)
        output = client.infer("target", inputs).as_numpy("output_ids")[0, 0].tolist()
        assert output[len(ids) :] == expected.tokens


def test_streamed_pieces_are_the_whole_answer(client: WanspecClient, reference: list[Answer]) -> None:
    pending = client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=-1, stream=True)
    pieces = list(pending)
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == reference[0].text
    whole = client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=-1, stream=False)
    assert len(list(whole)) == 1
    assert whole.answer.text == reference[0].text


def test_origins_and_summary_agree(client: WanspecClient) -> None:
    answer = client.ask(PROMPTS[1], max_tokens=60, end_id=-1, policy="wanspec").result()
    assert answer.origins.count(Origin.REMOTE) == answer.summary["accepted_remote"]
    assert answer.origins.count(Origin.LOCAL) == answer.summary["accepted_local"]
    assert answer.origins.count(Origin.TARGET) <= answer.summary["rounds"]


def test_event_log_replays_to_the_same_answer(small: Deployment, client: WanspecClient) -> None:
    small.relay.set(delay_ms=15.0)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(client.ask(p, max_tokens=40, end_id=-1).result) for p in PROMPTS[:3]]
        answer = client.ask(PROMPTS[5], max_tokens=40, end_id=-1, event_log=True).result()
        for other in others:
            other.result()
    (replayed,) = replay(answer.event_log).values()
    assert replayed.tokens == answer.tokens
    assert replayed.origins == answer.origins
    assert replayed.finished is not None
    assert replayed.finished.summary == answer.summary
    assert len(replayed.rounds) == answer.summary["rounds"]


def test_end_token_ends_the_answer(client: WanspecClient, reference: list[Answer]) -> None:
    end = reference[0].tokens[9]
    first = reference[0].tokens.index(end)
    for policy in ("target_only", *POLICIES):
        answer = client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=end, policy=policy).result()
        assert answer.tokens == reference[0].tokens[:first]
        assert answer.finish_reason == "stop"
