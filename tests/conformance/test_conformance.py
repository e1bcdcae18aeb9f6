"""The suite on our engines, which pass, and on engines with one fault each, which fail by the rule that names it."""

from __future__ import annotations

import pytest

from wanspec.conformance import RULES, Options, Subject, connect, run
from wanspec.conformance.run import FAIL, PASS, SKIP

SLOW = ("law.plain", "law.one_hot_drafts", "interruption.stop", "interruption.cancel")
DRAFTS = {f"drafts.{name}" for name in ("accepted", "rejected", "right_after_wrong", "end_id", "rounds")}

FAULTS = {
    "ignores exclude_input_in_output": {"contract.exclude_input"},
    "ignores seed": {"sampling.other_seed", "sampling.top_k", "sampling.temperature", "law.plain"},
    "ignores top-k": {"sampling.top_k", "law.plain", "law.one_hot_drafts"},
    "ignores min_tokens": {"ending.min_tokens"},
    "ignores presence_penalty": {"steering.presence_penalty"},
    "accepts what draft_logits say": {"law.one_hot_drafts"},
    "appends end_id": {"ending.end_id", "drafts.end_id"},
    "drops the bonus token": DRAFTS
    | {"drafts.output_len", "drafts.stop_words", "steering.bad_words_in_drafts"}
    | {"logits.log_probs", "batching.unlike_requests"},
    "accepts the first wrong draft": {"drafts.rejected", "drafts.right_after_wrong", "drafts.rounds"}
    | {"steering.bad_words_in_drafts"},
    "decimal log-probabilities": {"logits.log_probs_of_model", "streaming.log_probs"},
    "2% biased sampler": {"law.plain"},
    "counts all drafts as accepted": {"drafts.metrics"},
    "reuse never grows": {"performance.reuse"},
    "sequence_length one too large": {"contract.shapes", "contract.exclude_input"},
    "mixes rows of a batch": {"batching.rows"},
    "ignores stop": {"interruption.stop"},
    "ignores cancellation": {"interruption.cancel"},
    "streams the prompt again": {"streaming.tokens", "streaming.log_probs"},
}
"""By fault, the rules that fail, of those that are checked: all but ``SLOW`` ones that are not named here."""


def endpoint(server, protocol: str) -> str:
    return {"grpc": server.grpc_endpoint, "http": server.http_endpoint}[protocol]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("model", ["target", "draft"])
def test_our_engines_keep_every_rule(server, model: str, protocol: str) -> None:
    client = connect(protocol, endpoint(server, protocol), model)
    # The engine is the same over HTTP: what takes long once is enough.
    rules = [rule for rule in RULES if protocol == "grpc" or rule.name not in SLOW]
    outcomes = run(Subject(client, Options(role=model, samples=200)), rules)
    client.close()
    assert [outcome for outcome in outcomes if outcome.state == FAIL] == []
    assert len(outcomes) == len(rules)
    skipped = {outcome.rule for outcome in outcomes if outcome.state == SKIP}
    if protocol == "grpc":
        decoupled = {rule.name for rule in RULES if rule.name.startswith("streaming.")} | {"batching.sequences"}
        verifying = {rule.name for rule in RULES if rule.name.startswith("drafts.") or "drafts" in rule.name}
        verifying = verifying - {"errors.too_many_drafts"} | {"errors.streaming_when_not_decoupled"}
        assert skipped == (decoupled | {"logits.context"} if model == "target" else verifying)
    assert len(outcomes) - len(skipped) > 35


def check(server, fault: str, rules) -> set[str]:
    samples = 2000 if "biased" in fault else 300
    client = connect("grpc", server.grpc_endpoint, "faulty", {"fault": fault} if fault else None)
    try:
        outcomes = run(Subject(client, Options(samples=samples, most_drafts=4)), rules)
    finally:
        client.close()
    assert {outcome.rule for outcome in outcomes if outcome.state == PASS}, "none passed: the fault is too large"
    return {outcome.rule for outcome in outcomes if outcome.state == FAIL}


def test_without_a_fault_the_model_with_faults_passes(server) -> None:
    assert check(server, "", [rule for rule in RULES if rule.name not in SLOW]) == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(server, fault: str) -> None:
    expected = FAULTS[fault]
    others = [rule.name for rule in RULES if rule.name not in SLOW]
    if expected <= set(SLOW):
        others = [name for name in others if name.startswith(("contract.", "drafts."))]
    rules = [rule for rule in RULES if rule.name in {*expected, *others}]
    assert check(server, fault, rules) == expected
