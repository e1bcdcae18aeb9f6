"""The Kubernetes objects: built by kustomize, against the official schemas, and compared with the code."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deployment import DEPLOY, IMAGES, PORTS, compose
from tests.unit.cli.walk import parse
from wanspec.triton.launch import MIB

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = {"cpu": 2, "gpu/controller": 1, "gpu/worker": 1}
"""And how many regions are in each."""
KUBECTL = Path(sys.executable).parent / "kubectl"
VERSION = "1.34"
NAME = "app.kubernetes.io/name"
POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {"type": "object"},
                "podMetricsEndpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": {"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                        },
                    },
                },
            },
        },
    },
}
"""Of the operator's custom resource: the fields that are used here, which no package of schemas has."""


def build(overlay: Path) -> list[dict[str, Any]]:
    if not KUBECTL.is_file():
        pytest.skip("kubectl is not installed: `make kubectl`")
    done = subprocess.run([KUBECTL, "kustomize", overlay], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def built() -> Callable[[str], list[dict[str, Any]]]:
    made: dict[str, list[dict[str, Any]]] = {}

    def of(overlay: str) -> list[dict[str, Any]]:
        if overlay not in made:
            made[overlay] = build(FOLDER / "overlays" / overlay)
        return copy.deepcopy(made[overlay])

    return of


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest, built: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return built(request.param)


def check(thing: dict[str, Any]) -> None:
    """Raise a ValidationError unless the object follows its schema."""
    if thing["kind"] == "PodMonitor":
        jsonschema.validate(thing, POD_MONITOR)
    else:
        kubernetes_validate.validate(thing, VERSION, strict=True)


def of_kind(things: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [thing for thing in things if thing["kind"] == kind]


def regions(things: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of each region."""
    for deployment in of_kind(things, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        yield deployment["metadata"]["name"], pod, container


def test_objects_follow_their_schemas(objects: list[dict[str, Any]], request: pytest.FixtureRequest) -> None:
    count = OVERLAYS[request.node.callspec.params["objects"]]
    kinds = ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor")
    assert sorted(thing["kind"] for thing in objects) == sorted(kinds * count)
    for thing in objects:
        check(thing)
        assert thing["metadata"]["namespace"] == "wanspec"
        assert thing["metadata"]["labels"]["app.kubernetes.io/part-of"] == "wanspec"


@pytest.mark.parametrize(
    "file", sorted(FOLDER.glob("base/*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_the_base_follows_the_schemas_too(file: Path) -> None:
    if file.name != "kustomization.yaml":
        check(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    ("kind", "steps", "value"),
    [
        ("Deployment", ("spec", "replicas"), "one"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "livenessProbe", "perodSeconds"), 5),
        ("Service", ("spec", "ports", 0, "port"), "eight"),
        ("NetworkPolicy", ("spec", "ingress", 0, "form"), []),
        ("PodDisruptionBudget", ("spec", "maxUnavailabel"), 1),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "ports"), "metrics"),
    ],
)
def test_a_broken_one_is_refused(kind: str, steps: tuple[Any, ...], value: object) -> None:
    names = {"PodDisruptionBudget": "disruption", "NetworkPolicy": "network", "PodMonitor": "monitor"}
    thing = yaml.safe_load((FOLDER / "base" / "worker" / f"{names.get(kind, kind.lower())}.yaml").read_text())
    assert thing["kind"] == kind
    place = thing
    for step in steps[:-1]:
        place = place[step]
    place[steps[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(thing)


def test_kustomize_refuses_a_patch_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [thing.yaml]\npatches: [{path: patch.yaml}]\n")
    (tmp_path / "thing.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n")
    (tmp_path / "patch.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: b}\n")
    with pytest.raises(AssertionError, match="no matches for Id Service"):
        build(tmp_path)


def test_selectors_meet_the_pods(objects: list[dict[str, Any]]) -> None:
    """kustomize adds no labels to selectors: each must name its region's pods."""
    for deployment in of_kind(objects, "Deployment"):
        name, labels = deployment["metadata"]["name"], deployment["spec"]["template"]["metadata"]["labels"]
        assert labels[NAME] == name
        assert deployment["spec"]["selector"]["matchLabels"] == {NAME: name}
        mine = {thing["kind"]: thing["spec"] for thing in objects if thing["metadata"]["name"] == name}
        assert mine["Service"]["selector"] == {NAME: name}
        assert mine["PodDisruptionBudget"]["selector"] == {"matchLabels": {NAME: name}}
        assert mine["PodMonitor"]["selector"] == {"matchLabels": {NAME: name}}
        assert mine["NetworkPolicy"]["podSelector"] == {"matchLabels": {NAME: name}}


def test_ports_are_those_of_the_server(objects: list[dict[str, Any]]) -> None:
    for _, _, container in regions(objects):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {name: PORTS[name] for name in ("grpc", "metrics")}
    for service in of_kind(objects, "Service"):
        assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(PORTS["grpc"], "grpc")]
    for policy in of_kind(objects, "NetworkPolicy"):
        allowed = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert allowed == {"grpc", "metrics"}
    for monitor in of_kind(objects, "PodMonitor"):
        assert [point["port"] for point in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_commands_are_ones_that_we_have(objects: list[dict[str, Any]]) -> None:
    for name, pod, container in regions(objects):
        with parse(["render", "--output", "x", *container["args"]]) as context:
            given = context.params
        assert f"wanspec-{given['region']}" == name
        assert str(given["tls"]) == "/certs"
        if given["region"] == "controller":
            assert str(given["worker_tls"]) == "/certs"
            assert given["worker_urls"][0].endswith(f":{PORTS['grpc']}")
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {*mounts.values()} == {volume["name"] for volume in pod["volumes"]}
        assert {"/certs", "/dev/shm", "/tmp", "/var/cache/wanspec"} <= mounts.keys()
        if given["profile"] == "tensorrt-llm":
            assert str(given["engines"]) in mounts


def test_the_two_regions_of_one_cluster_reach_each_other(built: Callable[[str], list[dict[str, Any]]]) -> None:
    objects = built("cpu")
    (controller,) = (container for name, _, container in regions(objects) if name == "wanspec-controller")
    assert f"--worker-url=wanspec-worker:{PORTS['grpc']}" in controller["args"]
    assert "wanspec-worker" in {service["metadata"]["name"] for service in of_kind(objects, "Service")}
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(objects, "NetworkPolicy")}
    peer = [{"podSelector": {"matchLabels": {NAME: "wanspec-controller"}}}]
    assert policies["wanspec-worker"]["ingress"][0]["from"] == peer
    peer = [{"podSelector": {"matchLabels": {NAME: "wanspec-worker"}}}]
    assert policies["wanspec-controller"]["egress"][0]["to"] == peer


def test_probes_ask_tritons_health(objects: list[dict[str, Any]]) -> None:
    for _, _, container in regions(objects):
        for probe, what in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
            assert container[probe]["exec"]["command"] == ["python3", "/opt/wanspec/health.py", what]
    assert (IMAGES / "health.py").is_file()


def test_pods_may_do_little(objects: list[dict[str, Any]]) -> None:
    for name, pod, container in regions(objects):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
        assert not pod["automountServiceAccountToken"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        (secret,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "tls")
        assert secret == {"secretName": f"{name}-tls", "defaultMode": 0o440}


def test_resources_and_shared_memory(
    objects: list[dict[str, Any]], request: pytest.FixtureRequest, rendered_shm
) -> None:
    gpu = request.node.callspec.params["objects"].startswith("gpu")
    compared = compose("gpu", {"ENGINES": ""})["services"]["controller"]["shm_size"]
    for name, pod, container in regions(objects):
        limits = container["resources"]["limits"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert ("nvidia.com/gpu" in limits) == gpu
        (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
        stated = compared if gpu and name == "wanspec-controller" else rendered_shm(name.removeprefix("wanspec-"))
        assert shm == {"medium": "Memory", "sizeLimit": stated.upper() + "i"}
        assert bytes_of(shm["sizeLimit"]) * 2 < bytes_of(limits["memory"])


def bytes_of(text: str) -> int:
    return int(text[:-2]) * {"Mi": MIB, "Gi": 1024 * MIB}[text[-2:]]
