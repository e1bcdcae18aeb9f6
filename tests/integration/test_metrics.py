"""Metrics of real servers: what requests' summaries say, as documented, and what every panel and alert asks for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import wait_for_worker
from tests.integration.knocking import knock
from tests.integration.prometheus import RULES, Metrics, Prometheus, scraping
from tests.integration.prompts import PROMPTS
from tests.unit.telemetry.test_series import SECONDS, SUMS
from wanspec.core.messages import Header, Hello, Open
from wanspec.core.policies import POLICIES
from wanspec.core.wire import Frame, encode
from wanspec.errors import InvalidRequestError
from wanspec.models import fingerprint, resolve
from wanspec.telemetry.catalogue import CONTROLLER, WORKER, Metric
from wanspec.triton.client import WanspecClient
from wanspec.triton.deployment import Deployment

ROOT = Path(__file__).parents[2]
TOKENS = 40
LIMIT_S = 20.0
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", re.M)


@dataclass
class Run:
    """What was done while Prometheus looked on."""

    began: float
    before: Metrics
    summaries: list[dict[str, Any]]
    controller: Metrics
    worker: Metrics
    prometheus: Prometheus


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:g} s"
        time.sleep(0.1)


def links_up(deployment: Deployment) -> float:
    return Metrics(deployment.controller.metrics_endpoint).sum("wanspec_link_state", state="up")


def exact_answers(client: WanspecClient) -> list[dict[str, Any]]:
    """Some answers of every policy, compared with the target's own; their summaries."""
    reference = client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=-1, policy="target_only").result()
    with ThreadPoolExecutor(len(POLICIES)) as pool:
        answers = list(
            pool.map(
                lambda policy: client.ask(PROMPTS[0], max_tokens=TOKENS, end_id=-1, policy=policy).result(),
                [*POLICIES] * 2,
            )
        )
    assert all(answer.tokens == reference.tokens for answer in answers)
    return [reference.summary, *(answer.summary for answer in answers)]


def disagree(deployment: Deployment) -> None:
    """Another controller opens a sequence whose hash is not that of its tokens."""
    mine, instance = fingerprint(resolve("small-target")), bytes(range(16, 32))
    hello = Hello(instance, mine.vocab_size, mine.tokenizer, "", "")
    header = Header(int.from_bytes(instance[:8], "little"), 1, 1, want_reply=True)
    knock(deployment.worker.grpc_endpoint, encode(Frame(header, (hello, Open(1, 1, (5, 6, 7), 12345)))))


@pytest.fixture(scope="module")
def run(small: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Answers, then the faults: a round trip that grows, a silent WAN, a disagreement."""
    client = WanspecClient(small.controller.grpc_endpoint, timeout_s=60.0)
    small.relay.set(delay_ms=5.0, jitter_ms=0.0, state="on")
    wait_for_worker(client)
    time.sleep(1.2)  # what ended before is counted
    began, before = time.time(), Metrics(small.controller.metrics_endpoint)
    with scraping(small, tmp_path_factory.mktemp("prometheus")) as prometheus:
        summaries = exact_answers(client)
        with pytest.raises(InvalidRequestError):
            client.ask("hello", max_tokens=0).result()
        small.relay.set(delay_ms=60.0)
        summaries += exact_answers(client)
        running = client.ask(PROMPTS[0], max_tokens=400, end_id=-1, policy="adaptive")
        small.relay.set(state="off")
        disagree(small)
        until(
            lambda: Metrics(small.controller.metrics_endpoint).sum("wanspec_link_state", state="up") == 0, "link down"
        )
        small.relay.set(delay_ms=0.0, state="on")
        summaries.append(running.result().summary)
        until(lambda: links_up(small) == 1, "link up")
        time.sleep(1.2)
        controller, worker = Metrics(small.controller.metrics_endpoint), Metrics(small.worker.metrics_endpoint)
        time.sleep(0.6)
        yield Run(began, before, summaries, controller, worker, prometheus)


def test_counters_are_the_sums_of_the_summaries(run: Run) -> None:
    def grown(name: str, **labels: str) -> float:
        return run.controller.sum(name, **labels) - run.before.sum(name, **labels)

    for field, (name, labels) in SUMS.items():
        assert grown(name, **labels) == sum(each[field] for each in run.summaries), field
    for field, (name, labels) in SECONDS.items():
        name = f"{name}_sum" if name.endswith("_seconds") else name
        assert grown(name, **labels) == pytest.approx(sum(each[field] for each in run.summaries) / 1e3, abs=1e-4), field
    assert grown("wanspec_requests_total", reason="length") == len(run.summaries)
    assert grown("wanspec_requests_total", reason="refused") == 1
    assert grown("wanspec_target_pass_seconds_count") == sum(each["rounds"] for each in run.summaries)
    latency = sum(each["latency_ms"] for each in run.summaries) / 1e3
    assert grown("wanspec_path_seconds_total") == pytest.approx(latency, rel=0.02)


def test_the_documentation_has_what_is_exported(run: Run) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    written = {name: (kind, labels, text) for name, kind, labels, text in ROW.findall(page)}
    for exported, catalogue in ((run.controller, CONTROLLER), (run.worker, WORKER)):
        ours = {name for name in exported.kinds if name.startswith("wanspec_")}
        assert ours == {metric.name for metric in catalogue}
        for metric in catalogue:
            assert written.pop(metric.name) == row(metric)
            assert exported.kinds[metric.name] == metric.kind.value
            assert exported.helps[metric.name] == metric.help
            labels = {label for name, has, _ in exported.samples if name == metric.name for label in has}
            assert labels <= {*metric.labels}, metric.name
    assert written == {}


def row(metric: Metric) -> tuple[str, str, str]:
    return metric.kind.value, ", ".join(f"`{label}`" for label in metric.labels), metric.help


def test_every_panel_has_data(run: Run) -> None:
    empty = []
    for path in sorted((ROOT / "deploy" / "observability" / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        given = {each["name"]: each.get("query", "") for each in board["templating"]["list"]}
        given |= {"instance": ".*", "__rate_interval": "60s", "__range": "60s"}
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                if target["datasource"]["type"] != "prometheus":
                    continue
                expression = re.sub(r"\$(\w+)", lambda found: str(given[found[1]]), target["expr"])  # noqa: B023
                if not run.prometheus.values(expression):
                    empty.append((path.name, panel["title"], expression))
    assert empty == []


def test_every_alert_can_be_asked_and_the_faults_show(run: Run) -> None:
    rules = {
        rule["alert"]: rule["expr"] for each in yaml.safe_load(RULES.read_text())["groups"] for rule in each["rules"]
    }
    for name, expression in rules.items():
        run.prometheus.values(expression)
        for selector in re.findall(r"(?:wanspec_\w+|up|(?<=\())(?:\{[^}]*\})", expression):
            assert run.prometheus.ever(selector, run.began), (name, selector)
    assert run.prometheus.ever(rules["WanspecLinkDown"], run.began)
    assert run.prometheus.ever(rules["WanspecDesync"], run.began)
    assert run.prometheus.ever('ALERTS{alertname="WanspecDesync", alertstate="firing"}', run.began)
    assert run.prometheus.ever("max(wanspec_link_rtt_seconds) > 0.11", run.began)
    assert run.prometheus.ever('increase(wanspec_events_total{event="link down"}[10s]) > 0', run.began)
