"""Dashboards, alert rules and configurations of deploy/observability: as their programs and readers want them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.telemetry.promtool import binary
from wanspec.telemetry.catalogue import CONTROLLER, WORKER, Kind

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "observability"
RULES = FOLDER / "prometheus" / "rules.yaml"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
SAMPLES = {Kind.COUNTER: ("",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
KNOWN = {f"{metric.name}{end}" for metric in (*CONTROLLER, *WORKER) for end in SAMPLES[metric.kind]}


def expressions(path):
    board = json.loads(path.read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", ())]
    return [target["expr"] for target in targets if target["datasource"]["type"] == "prometheus"]


def promtool(*arguments):
    done = subprocess.run([binary("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the Grafana Foundation SDK needs Python 3.11")
def test_dashboards_are_what_their_program_generates():
    from deploy.observability.generate import rendered

    assert rendered() == {path.name: path.read_text() for path in DASHBOARDS}


def test_dashboards_and_alerts_name_metrics_that_exist():
    used = [expression for path in DASHBOARDS for expression in expressions(path)]
    assert len(used) > 80
    used += [alert["expr"] for alert in ALERTS]
    named = {name for text in used for name in re.findall(r"wanspec_\w+", text)}
    assert named <= KNOWN
    without = {metric.name for metric in (*CONTROLLER, *WORKER)}
    without -= {re.sub("_(bucket|sum|count)$", "", name) for name in named}
    assert without <= {
        "wanspec_prompt_tokens_total",
        "wanspec_remote_prefill_tokens_total",
        "wanspec_reserved_tokens",
        "wanspec_target_pass_seconds",
        "wanspec_shadow_rounds_total",
        "wanspec_shadow_tokens_total",
        "wanspec_shadow_tokens_covered_total",
    }


def test_panels_are_ready_for_a_reader():
    uids = set()
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        uids.add(board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        for panel in board["panels"]:
            position = panel["gridPos"]
            assert panel["title"]
            assert position["x"] + position["w"] <= 24
    assert len(uids) == len(DASHBOARDS) == 4


def test_every_alert_leads_to_a_section_of_the_documentation():
    assert len({alert["alert"] for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        page, anchor = alert["annotations"]["runbook"].split("#")
        titles = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.M)
        assert anchor in {title.lower().replace(" ", "-") for title in titles}, alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning", "info")


def test_promtool_takes_configuration_and_rules():
    promtool("check", "config", str(FOLDER / "prometheus" / "prometheus.yaml"))
    promtool("check", "rules", str(RULES))


def test_every_alert_fires_on_its_fault_only(tmp_path):
    cases = Path(__file__).with_name("alerts.yaml").read_text()
    for alert in ALERTS:
        assert re.search(f"alertname: {alert['alert']}[,}}]", cases), alert["alert"]
        fired = f'{{alertname="{alert["alert"]}"}}'
        assert cases.count(fired) == 1, alert["alert"]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(yaml.safe_load(cases.replace("RULES", str(RULES)))))
    promtool("test", "rules", str(tmp_path / "cases.yaml"))


def test_the_files_that_containers_get_are_here():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"otel-collector", "prometheus", "tempo", "grafana"}
    for name, service in services.items():
        assert service["profiles"] == ["observability"], name
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (FOLDER / volume.split(":")[0]).exists(), volume


def test_configurations_hang_together():
    collector = yaml.safe_load((FOLDER / "collector.yaml").read_text())
    for pipeline in collector["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(collector[kind])
    tempo = yaml.safe_load((FOLDER / "tempo.yaml").read_text())
    port = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].split(":")[1]
    assert collector["exporters"]["otlp"]["endpoint"] == f"tempo:{port}"
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/wanspec.yaml").read_text())["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "tempo": f"http://tempo:{tempo['server']['http_listen_port']}",
    }
