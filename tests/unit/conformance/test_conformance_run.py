"""Running rules on a server in memory: states, reports, selection, the command line."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import CliRunner

from wanspec.cli.group import cli
from wanspec.conformance import RULES, ModelInfo, Options, Report, Subject, run, select
from wanspec.conformance.rule import Rule, RuleFailedError, RuleSkippedError
from wanspec.conformance.run import FAIL, PASS, SKIP, describe
from wanspec.conformance.server import CannotAskError, RefusedError, Response
from wanspec.errors import ConfigError, ServerError

DRAFTS = 3


def entry(name: str, dtype: str) -> dict:
    return {"name": name, "data_type": f"TYPE_{dtype}", "dims": [-1], "optional": True}


class Counting:
    """A server whose next token is the last one plus one. It knows few inputs, and takes ``DRAFTS`` drafts."""

    protocol, can_cancel = "grpc", False
    info = ModelInfo(
        "here",
        "1",
        "counting",
        {
            "input": [
                *(entry(name, "INT32") for name in ("input_ids", "input_lengths", "request_output_len")),
                *(entry(name, "INT32") for name in ("draft_input_ids", "runtime_top_k")),
                entry("exclude_input_in_output", "BOOL"),
            ]
        },
    )

    def __init__(self, broken: Callable[[], None] | None = None) -> None:
        self.broken, self.closed = broken, False

    def infer(self, call, started=None):
        if self.broken is not None:
            self.broken()
        drafts = call.inputs.get("draft_input_ids", np.zeros((1, 0)))
        if drafts.shape[1] > DRAFTS:
            raise RefusedError("INVALID_ARGUMENT", "too many drafts")
        last, count = int(call.inputs["input_ids"][0, -1]), int(call.inputs["request_output_len"].item())
        ids = np.arange(last + 1, last + 1 + count, dtype=np.int32).reshape(1, 1, -1)
        return [Response({"output_ids": ids, "sequence_length": np.array([[count]], dtype=np.int32)})]

    def close(self) -> None:
        self.closed = True


def rule(name: str, check) -> Rule:
    return Rule(name, "Title.", "section", "why", "how", check)


def raising(error: Exception):
    def check(subject: Subject) -> None:
        raise error

    return check


def unavailable() -> None:
    raise RefusedError("UNAVAILABLE", "gone")


def test_probing_finds_the_longest_drafts() -> None:
    subject = Subject(Counting(), Options())
    assert not subject.probed
    run(subject, [])
    assert describe(subject) == {"vocab_size": None, "max_draft_len": DRAFTS, "margin": None}
    assert subject.reference.output == [subject.reference.prompt[-1] + 1 + place for place in range(12)]


def test_states_of_rules() -> None:
    rules = [
        rule("a.pass", lambda subject: None),
        rule("a.fail", raising(RuleFailedError("what", 1, 2))),
        rule("a.skip", raising(RuleSkippedError("not here"))),
        rule("a.cannot", raising(CannotAskError("not so"))),
        rule("a.refused", raising(RefusedError("INTERNAL", "no"))),
        rule("a.gone", raising(ServerError("gone"))),
        rule("a.nonsense", raising(IndexError("0"))),
        rule("a.more", lambda subject: subject.ask([1], 1)),
    ]
    seen: list[str] = []
    outcomes = run(Subject(Counting(), Options()), rules, lambda name, outcome: seen.append(name))
    assert [outcome.state for outcome in outcomes] == [PASS, FAIL, SKIP, SKIP, FAIL, FAIL, FAIL, PASS]
    assert seen == [each.name for each in rules]
    assert (outcomes[1].detail, outcomes[1].expected, outcomes[1].got) == ("what", "1", "2")
    assert (outcomes[2].detail, outcomes[-1].requests) == ("not here", 1)


def test_a_server_that_does_not_generate_fails_at_once() -> None:
    outcomes = run(Subject(Counting(unavailable), Options()), RULES)
    assert (outcomes[0].rule, outcomes[0].state) == ("probe", FAIL)
    assert {outcome.state for outcome in outcomes[1:]} == {SKIP}


def test_a_rule_has_a_deadline() -> None:
    def endless(subject: Subject) -> None:
        while True:
            subject.ask([1], 1)

    (outcome,) = run(Subject(Counting(), Options(rule_timeout_s=1.0)), [rule("a.endless", endless)])
    assert outcome.state == FAIL
    assert "deadline" in outcome.detail


def test_unavailability_is_no_refusal() -> None:
    subject = Subject(Counting(unavailable), Options())
    with pytest.raises(RuleFailedError, match="UNAVAILABLE"):
        subject.refused("something bad", lambda: subject.ask([1], 1))


def test_selection() -> None:
    assert {each.name for each in select("drafts.*, law.plain")} == {
        each.name for each in RULES if each.name.startswith("drafts.") or each.name == "law.plain"
    }
    assert tuple(select("*")) == RULES
    with pytest.raises(ConfigError, match="areas are batching, contract"):
        select("nothing.*")


@pytest.mark.parametrize("options", [{"role": "verifier"}, {"samples": 1}, {"timeout_s": 0.0}, {"most_drafts": 0}])
def test_options_that_cannot_work(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Options(**options)


def test_a_report_is_json_and_text() -> None:
    server = Counting()
    subject = Subject(server, Options())
    rules = [rule("a.pass", lambda subject: None), rule("a.fail", raising(RuleFailedError("what", 1, 2)))]
    report = Report("grpc", server.info, subject.options, run(subject, rules), describe(subject), "now", 1.0)
    found = json.loads(json.dumps(report.as_dict()))
    assert (found["passed"], found["facts"]["max_draft_len"], found["format"]) == (False, DRAFTS, 1)
    assert [each["state"] for each in found["outcomes"]] == [PASS, FAIL]
    assert found["client"]["tritonclient"]
    assert found["model"]["config"] == server.info.config
    assert "1 passed, 1 failed, 0 skipped" in report.as_text()
    assert "expected 1" in report.as_text()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list:
    made: list = []

    def connect(protocol, url, model, parameters=None, tls=None):
        made.append((protocol, url, model, Counting()))
        return made[-1][-1]

    monkeypatch.setattr("wanspec.cli.conformance.connect", connect)
    return made


def test_the_command_writes_reports_and_fails_with_a_rule(counting, tmp_path) -> None:
    path = tmp_path / "report.json"
    arguments = ["conformance", "--url", "host:1", "--protocol", "both", "--rules", "contract.input_lengths"]
    answer = CliRunner().invoke(cli, [*arguments, "--output", str(path)])
    # It counts on from the padding.
    assert answer.exit_code == 1, answer.output
    assert [(protocol, url, model) for protocol, url, model, _ in counting] == [
        ("grpc", "host:1", "tensorrt_llm"),
        ("http", "host:8000", "tensorrt_llm"),
    ]
    assert all(made[-1].closed for made in counting)
    reports = json.loads(path.read_text())["reports"]
    assert [report["outcomes"][0]["state"] for report in reports] == [FAIL, FAIL]
    assert "contract.input_lengths" in path.with_suffix(".txt").read_text()


def test_the_command_passes(counting) -> None:
    answer = CliRunner().invoke(cli, ["conformance", "--rules", "ending.output_len", "--json", "--prompt-ids", "5,6"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["passed"]


@pytest.mark.parametrize("arguments", [["--prompt-ids", "x"], ["--rules", "nothing"], ["--prompt-ids", "5"]])
def test_the_command_refuses_what_it_cannot_read(counting, arguments: list[str]) -> None:
    answer = CliRunner().invoke(cli, ["conformance", *arguments])
    assert answer.exit_code == 1
    assert counting == []


def test_a_closed_port_comes_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(protocol, url, model, **options):
        raise ServerError(f"gRPC at {url}: refused")

    monkeypatch.setattr("wanspec.cli.conformance.connect", connect)
    answer = CliRunner().invoke(cli, ["conformance", "--url", "127.0.0.1:9"])
    assert (answer.exit_code, "127.0.0.1:9: refused. Does a Triton listen there? --url" in answer.stderr) == (1, True)
    answer = CliRunner().invoke(cli, ["conformance", "--protocol", "http", "--json"])
    assert "--http-url wants its HTTP" in json.loads(answer.stdout)["error"]
