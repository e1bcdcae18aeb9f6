"""The Dockerfiles: linted, and compared with what they copy, run and serve."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from build_engines.machine import IMAGE
from tests.deployment import IMAGES, PORTS, ROOT, instructions
from tests.unit.cli.walk import parse
from wanspec.triton.launch import ServerSettings

DOCKERFILES = sorted(IMAGES.glob("*.Dockerfile"))
HADOLINT = Path(sys.executable).parent / "hadolint"


def linted(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True, timeout=60)


def named(file: Path) -> str:
    return file.name


def last(file: Path, instruction: str) -> str:
    return [arguments for name, arguments in instructions(file) if name == instruction][-1]


def test_there_are_images() -> None:
    assert [file.name for file in DOCKERFILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=named)
def test_the_linter_has_nothing_to_say(file: Path) -> None:
    done = linted(file)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "broken", "rule"),
    [
        ("USER 10001:10001", "USER root", "DL3002"),
        ("ENTRYPOINT [", "ENTRYPOINT sh -c [", "DL3025"),
        ("FROM python:${PYTHON}\n", "FROM python\n", "DL3006"),
        ("COPY constraints.txt /src/", "COPYY constraints.txt /src/", "missing whitespace"),
    ],
)
def test_a_broken_one_is_refused(line: str, broken: str, rule: str, tmp_path: Path) -> None:
    copy = tmp_path / "Dockerfile"
    text = (IMAGES / "cpu.Dockerfile").read_text()
    assert line in text
    copy.write_text(text.replace(line, broken))
    done = linted(copy)
    assert done.returncode != 0
    assert rule in done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=named)
def test_nobody_is_root_and_health_is_looked_at(file: Path) -> None:
    steps = instructions(file)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last(file, "USER"))
    assert steps.index(("USER", last(file, "USER"))) > max(n for n, step in enumerate(steps) if step[0] == "RUN")
    check = last(file, "HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["python3", "/opt/wanspec/health.py", "ready"]
    assert {int(port) for port in last(file, "EXPOSE").split()} == set(PORTS.values())
    server = ServerSettings(Path())
    assert {"http": server.http_port, "grpc": server.grpc_port, "metrics": server.metrics_port} == PORTS


@pytest.mark.parametrize("file", DOCKERFILES, ids=named)
def test_what_is_copied_is_there_and_sent(file: Path) -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name, arguments in instructions(file):
        words = [word for word in arguments.split() if not word.startswith("--")]
        if name != "COPY" or "--from=" in arguments:
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == each or source.startswith(f"{each}/") for each in sent), source
    for each in sent:
        assert (ROOT / each).exists(), each


@pytest.mark.parametrize("file", DOCKERFILES, ids=named)
def test_commands_are_ones_that_we_have(file: Path) -> None:
    assert json.loads(last(file, "ENTRYPOINT")) == ["/opt/wanspec/serve.sh"]
    found = [json.loads(arguments) for name, arguments in instructions(file) if name == "CMD"]
    assert len(found) == (1 if file.name.startswith("cpu") else 2)
    for command in found:
        with parse(["render", "--output", "x", *command]) as context:
            assert context.params["region"] in ("controller", "worker")


def test_the_package_has_what_is_built_in() -> None:
    """The wheel is made of the folders that are copied."""
    for file in DOCKERFILES:
        copied = {arguments.split()[0] for name, arguments in instructions(file) if name == "COPY"}
        assert {"wanspec", "build_engines", "model_repo", "pyproject.toml"} <= copied
    assert "torch==" in (ROOT / "constraints.txt").read_text()


def test_engines_are_served_by_the_image_they_are_built_in() -> None:
    assert ("ARG", f"BASE={IMAGE}") in instructions(IMAGES / "gpu.Dockerfile")


def test_scripts_parse() -> None:
    for script in (IMAGES / "serve.sh", ROOT / "deploy" / "certificates.sh"):
        assert script.stat().st_mode & 0o111
        assert subprocess.run(["sh", "-n", script], timeout=10).returncode == 0


@pytest.fixture
def triton():
    """Answers as Triton's health does: live, and ready where it is asked for by that."""
    statuses = {"/v2/health/live": 200, "/v2/health/ready": 400}

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[self.path])
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], statuses
    server.shutdown()
    server.server_close()


def test_health(triton) -> None:
    port, statuses = triton

    def health(*words: object) -> tuple[int, str]:
        command = [sys.executable, IMAGES / "health.py", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return done.returncode, done.stderr.strip()

    assert health("live", port) == (0, "")
    assert health("ready", port) == (1, "not ready: HTTP status 400")
    statuses["/v2/health/ready"] = 200
    assert health("ready", port) == (0, "")
    assert health("well", port) == (1, "well: ask live or ready")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        code, said = health("live", free.getsockname()[1])
    assert (code, said.partition(":")[0]) == (1, "not live")
