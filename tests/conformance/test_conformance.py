"""The suite on our engines, which pass, and on engines with one fault each, which fail by the rule that names it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest

from wanspec.conformance import RULES, Options, Outcome, Subject, connect, run
from wanspec.conformance.run import FAIL, PASS, SKIP
from wanspec.triton.server import TritonServer

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


Checks: TypeAlias = dict[Any, "Future[Any]"]
AT_ONCE = 3
"""Checks that run at the same time: each mostly waits for one of the three models, which answers many at once."""


def check_engine(server: TritonServer, model: str, protocol: str) -> list[Outcome]:
    client = connect(protocol, {"grpc": server.grpc_endpoint, "http": server.http_endpoint}[protocol], model)
    # The engine is the same over HTTP: what takes long once is enough.
    rules = [rule for rule in RULES if protocol == "grpc" or rule.name not in SLOW]
    try:
        outcomes = run(Subject(client, Options(role=model, samples=200)), rules)
    finally:
        client.close()
    assert len(outcomes) == len(rules)
    return outcomes


def check_faulty(server: TritonServer, fault: str) -> set[str]:
    """The rules that fail, of the quick ones and those that should fail; "" for no fault."""
    expected = FAULTS.get(fault, set())
    names = {rule.name for rule in RULES} - set(SLOW)
    if fault and expected <= set(SLOW):
        names = {name for name in names if name.startswith(("contract.", "drafts."))}
    samples = 2000 if "biased" in fault else 300
    client = connect("grpc", server.grpc_endpoint, "faulty", {"fault": fault} if fault else None)
    try:
        rules = [rule for rule in RULES if rule.name in names | expected]
        outcomes = run(Subject(client, Options(samples=samples, most_drafts=4)), rules)
    finally:
        client.close()
    assert {outcome.rule for outcome in outcomes if outcome.state == PASS}, "none passed: the fault is too large"
    return {outcome.rule for outcome in outcomes if outcome.state == FAIL}


@pytest.fixture(scope="module")
def checks(server: TritonServer) -> Iterator[Checks]:
    """All checks, by model and protocol or by fault. A fault is a request's own, so they do not touch each other."""
    engines = [(model, protocol) for protocol in ("grpc", "http") for model in ("target", "draft")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started: Checks = {engine: pool.submit(check_engine, server, *engine) for engine in engines}
        yield started | {fault: pool.submit(check_faulty, server, fault) for fault in ("", *FAULTS)}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("model", ["target", "draft"])
def test_our_engines_keep_every_rule(checks: Checks, model: str, protocol: str) -> None:
    outcomes = checks[model, protocol].result()
    assert [outcome for outcome in outcomes if outcome.state == FAIL] == []
    skipped = {outcome.rule for outcome in outcomes if outcome.state == SKIP}
    if protocol == "grpc":
        decoupled = {rule.name for rule in RULES if rule.name.startswith("streaming.")} | {"batching.sequences"}
        verifying = {rule.name for rule in RULES if rule.name.startswith("drafts.") or "drafts" in rule.name}
        verifying = verifying - {"errors.too_many_drafts"} | {"errors.streaming_when_not_decoupled"}
        assert skipped == (decoupled | {"logits.context"} if model == "target" else verifying)
    assert len(outcomes) - len(skipped) > 35


def test_without_a_fault_the_model_with_faults_passes(checks: Checks) -> None:
    assert checks[""].result() == set()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(checks: Checks, fault: str) -> None:
    assert checks[fault].result() == FAULTS[fault]
