"""What the files in deploy/ say: read for tests, with the placeholders of compose filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
IMAGES = DEPLOY / "images"
COMPOSE = {name: DEPLOY / "compose" / f"{name}.yaml" for name in ("cpu", "gpu")}
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_PLACEHOLDER = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def compose(name: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A compose file with its variables replaced, as docker does. KeyError: one that must be set is not."""
    given = environment or {}

    def value(found: re.Match[str]) -> str:
        variable, kind, otherwise = found.groups()
        return given[variable] if variable in given or kind != "-" else otherwise

    return yaml.safe_load(_PLACEHOLDER.sub(value, COMPOSE[name].read_text()))  # type: ignore[no-any-return]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions in order, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(words[0], words[1]) for words in (line.split(maxsplit=1) for line in lines if line.strip())]
