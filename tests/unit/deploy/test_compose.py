"""The compose files: against the specification's schema, and compared with the commands, images and paths they name."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from build_engines.load import shipped
from tests.deployment import COMPOSE, DEPLOY, IMAGES, PORTS, ROOT, compose, instructions
from tests.unit.cli.walk import parse
from wanspec.network.tls import CLIENT_FILES, SERVER_FILES
from wanspec.triton.launch import MIB, ServerSettings, container_shm_bytes

SET = {"ENGINES": "/srv/engines"}
UNITS = {"m": MIB, "g": 1024 * MIB}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(found.read_text())  # type: ignore[no-any-return]


@pytest.fixture(params=COMPOSE)
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    return compose(request.param, SET)["services"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", COMPOSE)
def test_they_follow_the_specification(name: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(compose(name, SET), schema)


@pytest.mark.parametrize(
    "change",
    [{"portz": ["1:1"]}, {"command": {"a": 1}}, {"shm_size": []}, {"healthcheck": {"disabled": True}}],
    ids=str,
)
def test_a_broken_one_is_refused(change: dict[str, Any], schema: dict[str, Any]) -> None:
    broken = compose("cpu", SET)
    broken["services"]["worker"] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_what_must_be_set_is_asked_for() -> None:
    compose("cpu")
    with pytest.raises(KeyError, match="ENGINES"):
        compose("gpu")


def command_of(service: dict[str, Any]) -> list[str]:
    if "entrypoint" in service:
        assert service["entrypoint"][0] == "wanspec"
        return [*service["entrypoint"][1:], *service["command"]]
    return ["render", "--output", "x", *service["command"]]


def test_commands_are_ones_that_we_have(services: dict[str, Any]) -> None:
    seen = set()
    for service in services.values():
        with parse(command_of(service)) as context:
            seen.add(context.params.get("region", context.info_name))
    assert seen == {"controller", "worker", "relay"}


def test_an_unknown_option_would_be_found() -> None:
    service = compose("cpu")["services"]["worker"]
    with pytest.raises(Exception, match="No such option"):
        parse(command_of(service | {"command": [*service["command"], "--gpus=all"]}))


def test_addresses_are_those_of_services(services: dict[str, Any]) -> None:
    def option(service: str, name: str) -> str:
        (value,) = (word.partition("=")[2] for word in services[service]["command"] if word.startswith(f"{name}="))
        return value

    assert option("controller", "--worker-url") == f"relay:{PORTS['grpc']}"
    assert option("relay", "--to") == f"worker:{PORTS['grpc']}"
    assert option("relay", "--listen") == f"0.0.0.0:{PORTS['grpc']}"
    assert services["controller"]["ports"] == [f"127.0.0.1:{PORTS['grpc']}:{PORTS['grpc']}"]


def test_certificates_are_where_the_script_writes_them(services: dict[str, Any]) -> None:
    for region in ("controller", "worker"):
        assert f"./certs/{region}:/certs:ro" in services[region]["volumes"]
        assert "--tls=/certs" in services[region]["command"]
    assert "--worker-tls=/certs" in services["controller"]["command"]
    for file in COMPOSE.values():
        # The relay is what the controller dials.
        (line,) = (line for line in file.read_text().splitlines() if "certificates.sh" in line)
        assert "deploy/compose/certs worker=worker,relay controller=controller" in line
    script = (DEPLOY / "certificates.sh").read_text()
    assert all(name in script for name in (*SERVER_FILES, *CLIENT_FILES))
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/compose/certs/x"], cwd=ROOT, timeout=10)
    assert ignored.returncode == 0, "keys must not be committed"


def test_images_are_those_that_are_built(services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" not in service:
            assert service["image"] in {other["image"] for other in services.values() if "build" in other}
            continue
        file = ROOT / service["build"]["dockerfile"]
        assert (COMPOSE["cpu"].parent / service["build"]["context"]).resolve() == ROOT
        assert file.parent == IMAGES
        stages = {arguments.partition(" AS ")[2] for name, arguments in instructions(file) if name == "FROM"}
        assert service["build"].get("target", "") in stages
        arguments = {words.partition("=")[0] for name, words in instructions(file) if name == "ARG"}
        assert service["build"].get("args", {}).keys() <= arguments


def test_nothing_is_written_but_where_it_may_be(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert {entry.partition(":")[0] for entry in service["tmpfs"]} == {"/tmp", "/var/cache/wanspec"}
        assert all(volume.endswith(":ro") for volume in service.get("volumes", ()))
        user, group = service["user"].split(":")
        assert int(user) > 0
        assert int(group) > 0


def test_shared_memory_is_what_render_states(rendered_shm) -> None:
    cpu, gpu = (compose(name, SET)["services"] for name in ("cpu", "gpu"))
    assert cpu["worker"]["shm_size"] == gpu["worker"]["shm_size"] == rendered_shm("worker")
    assert cpu["controller"]["shm_size"] == rendered_shm("controller")


def test_shared_memory_is_enough_for_every_recipe(recipe_shm) -> None:
    size = compose("gpu", SET)["services"]["controller"]["shm_size"]
    most = max(recipe_shm(name) for name in shipped())
    assert int(size[:-1]) * UNITS[size[-1]] >= most > container_shm_bytes(ServerSettings(IMAGES), 1, 8)


def test_observability_is_included_where_it_is() -> None:
    for name, file in COMPOSE.items():
        (included,) = compose(name, SET)["include"]
        assert included == "../observability/compose.yaml"
        observed = file.parent / included
        if observed.is_file():
            theirs = yaml.safe_load(observed.read_text())["services"]
            assert all("observability" in service.get("profiles", ()) for service in theirs.values())
            assert not theirs.keys() & compose(name, SET)["services"].keys()
            assert "otel-collector" in theirs
