"""A real Prometheus that scrapes two servers, and what it answers."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.unit.telemetry.promtool import binary
from wanspec.network.ports import reserve_ports
from wanspec.triton.deployment import Deployment

RULES = Path(__file__).parents[2] / "deploy" / "observability" / "prometheus" / "rules.yaml"
READY_S = 20.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Metrics:
    """What one server exports now."""

    def __init__(self, endpoint: str) -> None:
        text = urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=5.0).read().decode()
        self.kinds = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE "))
        self.helps = dict(line[7:].split(" ", 1) for line in text.splitlines() if line.startswith("# HELP "))
        found = (_SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#"))
        self.samples = [(m[1], dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in found if m is not None]

    def sum(self, name: str, **labels: str) -> float:
        """Of all series that have these labels."""
        return sum(value for of, has, value in self.samples if of == name and labels.items() <= has.items())


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self._url}/-/ready", timeout=1.0).status == 200)
        except OSError:
            return False

    def values(self, expression: str) -> list[float]:
        """What an expression is now: one number for each time series; NaN left out."""
        result = self._ask("query", query=expression)
        numbers = [float(each["value"][1]) for each in result]
        return [number for number in numbers if not math.isnan(number)]

    def ever(self, expression: str, since: float) -> bool:
        """Whether an expression has had a value since a time."""
        return bool(self._ask("query_range", query=expression, start=since, end=time.time(), step=0.5))

    def _ask(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            answer = json.loads(urllib.request.urlopen(url, timeout=10.0).read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from None
        return list(answer["data"]["result"])


@contextmanager
def scraping(deployment: Deployment, folder: Path) -> Iterator[Prometheus]:
    """Scrape both servers twice a second, with our rules, until the end."""
    command = [binary("prometheus")]
    jobs = {"wanspec-controller": deployment.controller, "wanspec-worker": deployment.worker}
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [server.metrics_endpoint]}]}
            for job, server in jobs.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    reservation = reserve_ports(1)
    (port,) = reservation.ports
    reservation.release()
    command += [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus, deadline = Prometheus(port), time.monotonic() + READY_S
            while not prometheus.ready():
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield prometheus
        finally:
            process.kill()
