"""The CPU compose file without containers: its commands, by the image's entrypoint, on ports of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.certificates import make_certificates
from tests.deployment import IMAGES, PORTS, ROOT, compose
from tests.integration.conftest import wait_for_worker
from tests.unit.network.test_link import Listener
from wanspec.cli.group import cli
from wanspec.errors import ServerError
from wanspec.network import link
from wanspec.network.link import LinkClient, LinkTarget
from wanspec.network.ports import reserve_ports
from wanspec.network.tls import Tls, tls_in
from wanspec.triton.client import WanspecClient
from wanspec.triton.watchdog import SHARED_MEMORY

NAMES = ("tls_ca", "tls_cert", "tls_key")
RTT_MS = 10
READY_S, END_S = 90.0, 4.0
ROLES = ("target", "draft")
PROMPT = "Once upon a time"


@dataclass
class Region:
    """A container's process, on ports of its own."""

    process: subprocess.Popen[str]
    ports: dict[str, int]
    log: Path

    def healthy(self, what: str) -> bool:
        command = [sys.executable, IMAGES / "health.py", what, str(self.ports["http"])]
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0


@dataclass
class Regions:
    """All of them, and a client's certificate."""

    by_name: dict[str, Region]
    user: Tls

    def url(self, name: str) -> str:
        return f"127.0.0.1:{self.by_name[name].ports['grpc']}"

    @property
    def options(self) -> list[str]:
        user = self.user
        files = "--tls-ca", user.ca, "--tls-cert", user.certificate, "--tls-key", user.key
        return ["--url", self.url("controller"), *map(str, files)]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    folder = tmp_path_factory.mktemp("deploy")
    certificates = make_certificates(folder / "certs", "worker=worker,relay", "controller=controller", "user=user")
    services = compose("cpu", {"DTYPE": "float64", "RTT_MS": str(RTT_MS)})["services"]
    with ExitStack() as stack:
        reservation = reserve_ports(len(PORTS) * len(services))
        stack.callback(reservation.release)
        numbers = iter(reservation.ports)
        ports = {name: {kind: next(numbers) for kind in PORTS} for name in services}
        started = {}
        for name, service in services.items():
            argv = _here(name, service, ports, certificates)
            log = folder / f"{name}.log"
            environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            with log.open("w") as file:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd=ROOT,
                    env=environment,
                    text=True,
                    start_new_session=True,
                )
            stack.callback(_end, name, process)
            started[name] = Region(process, ports[name], log)
        for name in ("worker", "controller"):
            _wait_ready(started[name])
        yield Regions(started, tls_in(certificates / "user", NAMES))
        for region in started.values():
            region.process.send_signal(signal.SIGTERM)
        started["relay"].process.wait(END_S)
        carried = json.loads(started["relay"].log.read_text().splitlines()[-1])["stats"]
        assert min(carried["up"]["bytes"], carried["down"]["bytes"]) > 1000, "the link went past the relay"


def _here(name: str, service: dict[str, Any], ports: dict[str, dict[str, int]], certificates: Path) -> list[str]:
    """The container's command on this machine: with its names, ports and folders for those inside."""
    places = {f"{host}:{PORTS['grpc']}": f"127.0.0.1:{own['grpc']}" for host, own in ports.items()}
    places[f"0.0.0.0:{PORTS['grpc']}"] = f"127.0.0.1:{ports[name]['grpc']}"
    places["/certs"] = str(certificates / name)
    words = []
    for word in service["command"]:
        option, equals, value = word.partition("=")
        words.append(f"{option}{equals}{places.get(value, value)}")
    if "entrypoint" in service:
        return [*service["entrypoint"], *words]
    own = [f"--{kind}-port={port}" for kind, port in ports[name].items()]
    return [str(IMAGES / "serve.sh"), *words, *own, "--address=127.0.0.1"]


def _wait_ready(region: Region) -> None:
    deadline = time.monotonic() + READY_S
    while not region.healthy("ready"):
        assert region.process.poll() is None, region.log.read_text()[-3000:]
        assert time.monotonic() < deadline, region.log.read_text()[-3000:]
        time.sleep(0.2)


def _end(name: str, process: subprocess.Popen[str]) -> None:
    """Kill a region that does not end at once, and remove what a killed server leaves."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_S)
    for region in SHARED_MEMORY.glob(f"wanspec-{name}0_*"):
        region.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def client(regions: Regions) -> WanspecClient:
    client = WanspecClient(regions.url("controller"), tls=regions.user, timeout_s=60.0)
    wait_for_worker(client)
    return client


def test_answers_through_tls_and_the_relay_are_the_targets_own(client: WanspecClient) -> None:
    expected = client.ask(PROMPT, max_tokens=24, policy="target_only", end_id=-1).result().tokens
    for policy in ("remote_sync", "wanspec", "adaptive"):
        answer = client.ask(PROMPT, max_tokens=24, policy=policy, end_id=-1).result()
        assert answer.tokens == expected, policy
        assert answer.summary["rtt_ms"] >= RTT_MS
    remote = client.ask(PROMPT, max_tokens=24, policy="remote_sync", end_id=-1).result()
    assert remote.summary["accepted_remote"] > 0


@pytest.mark.parametrize("name", ["controller", "worker"])
@pytest.mark.parametrize("who", ["plaintext", "no certificate"])
def test_strangers_are_refused(regions: Regions, name: str, who: str) -> None:
    tls = Tls(regions.user.ca) if who == "no certificate" else None
    with pytest.raises(ServerError, match="a server that wants TLS, or that refuses this client's certificate"):
        WanspecClient(regions.url(name), tls=tls).models()
    assert WanspecClient(regions.url(name), tls=regions.user).models()


def test_a_controller_without_a_certificate_is_told_why(regions: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.5)
    listener = Listener()
    connection = LinkClient(LinkTarget(regions.url("relay"), credentials=Tls(regions.user.ca).credentials()), listener)
    connection.connect()
    said = str(listener.next())
    connection.close()
    assert "refuses this client's certificate" in said


def test_commands(regions: Regions, client: WanspecClient) -> None:
    answer = CliRunner().invoke(cli, ["generate", PROMPT, "--max-tokens", "8", "--json", *regions.options])
    assert answer.exit_code == 0, answer.output
    expected = client.ask(PROMPT, max_tokens=8, policy="target_only").result().tokens
    assert json.loads(answer.stdout)["tokens"] == expected
    state = CliRunner().invoke(cli, ["control", "--json", *regions.options])
    assert json.loads(state.stdout)["links"] == ["up"]
    elsewhere = [*regions.options, "--url", regions.url("worker")]
    assert "it has: wanspec_worker" in CliRunner().invoke(cli, ["control", *elsewhere]).output
    few = ["--policy", "adaptive", "--prompts", "1", "--tokens", "4", "--json"]
    measured = CliRunner().invoke(cli, ["bench", *few, *regions.options])
    assert measured.exit_code == 0, measured.output
    assert "target_native" in measured.stdout


@pytest.mark.parametrize(
    ("role", "rules"),
    [
        ("target", "drafts.*"),
        ("draft", "ending.*"),
        *(pytest.param(role, "*", marks=pytest.mark.acceptance) for role in ROLES),
    ],
)
def test_engines_keep_the_contract(regions: Regions, role: str, rules: str) -> None:
    words = ["conformance", "--model", role, "--role", role, "--rules", rules, "--json", *regions.options]
    report = CliRunner().invoke(cli, words)
    assert report.exit_code == 0, report.output[-3000:]
    assert json.loads(report.stdout)["passed"]
