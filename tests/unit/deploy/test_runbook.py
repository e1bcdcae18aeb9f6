"""The runbook against the code and the files: every container's command, path, size and link."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest

from tests.deployment import PORTS, ROOT
from tests.snippets import snippets
from tests.unit.cli.walk import parse
from wanspec.triton.launch import MIB

PAGE = ROOT / "docs" / "runbook.md"
SHELL = "\n".join(each.code for each in snippets(PAGE) if each.language == "bash").replace("\\\n", " ")
RUNS = [shlex.split(line, comments=True) for line in SHELL.splitlines() if line.startswith("docker run")]
IMAGES = ("wanspec-controller", "wanspec-worker")


def parts(words: list[str]) -> tuple[list[str], str, list[str]]:
    """Docker's options, the image, and what it is given."""
    (at,) = (index for index, word in enumerate(words) if word in IMAGES)
    return words[:at], words[at], words[at + 1 :]


def values(options: list[str], name: str) -> list[str]:
    return [value for option, value in itertools.pairwise(options) if option == name]


def test_containers_are_started() -> None:
    assert [parts(words)[1] for words in RUNS].count("wanspec-worker") == 1
    assert len(RUNS) == 4


@pytest.mark.parametrize("words", RUNS, ids=lambda words: " ".join(parts(words)[2][:5]))
def test_their_commands_are_ones_that_we_have(words: list[str]) -> None:
    options, _, given = parts(words)
    command = given if values(options, "--entrypoint") == ["wanspec"] else ["render", "--output", "x", *given]
    with parse(command) as context:
        inside = [
            str(context.params.get(name)) for name in ("engines", "tls", "worker_tls") if context.params.get(name)
        ]
    mounted = {volume.split(":")[1] for volume in values(options, "-v")}
    assert set(inside) <= mounted
    assert {volume.split(":")[0] for volume in values(options, "-v")} <= {"/srv/engines", "/srv/certs"}


def test_servers_have_the_ports_and_the_memory_that_they_need(rendered_shm, recipe_shm) -> None:
    (worker,) = (parts(words)[0] for words in RUNS if "--name" in words and "worker" in values(words, "--name"))
    (controller,) = (parts(words)[0] for words in RUNS if "controller" in values(words, "--name"))
    for options in (worker, controller):
        assert values(options, "-p") == [
            f"{PORTS['grpc']}:{PORTS['grpc']}",
            f"127.0.0.1:{PORTS['metrics']}:{PORTS['metrics']}",
        ]
    assert values(worker, "--shm-size") == [rendered_shm("worker")]
    (recipe,) = {parts(words)[2][1] for words in RUNS if "build-engines" in words}
    assert values(controller, "--shm-size") == [f"{recipe_shm(recipe) // MIB}m"]
    assert f"{recipe_shm(recipe) // MIB}m for this recipe" in PAGE.read_text()


def test_paths_exist() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", PAGE.read_text()))
    assert {"deploy/compose/cpu.yaml", "deploy/kubernetes/overlays/gpu/worker", "deploy/certificates.sh"} <= named
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing <= {"deploy/observability", "deploy/compose/certs"}, "the one is another's, the other is made"


def test_secrets_are_those_that_pods_mount() -> None:
    for region in ("worker", "controller"):
        assert f"create secret generic wanspec-{region}-tls --from-file=certs/{region}" in SHELL
        text = (ROOT / "deploy" / "kubernetes" / "base" / region / "deployment.yaml").read_text()
        assert f"secretName: wanspec-{region}-tls" in text


def test_reasons_are_those_that_a_log_gives() -> None:
    code = (ROOT / "wanspec" / "network" / "tls.py").read_text()
    table = PAGE.read_text().partition("| log | cause |")[2].partition("\n\n")[0]
    for words in (
        "CERTIFICATE_VERIFY_FAILED",
        "Hostname Verification Check failed",
        "WRONG_VERSION_NUMBER",
        "Socket closed",
    ):
        assert words in code
        assert words in table
