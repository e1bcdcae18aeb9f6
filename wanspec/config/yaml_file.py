"""Reads a YAML file with the place of every field in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from wanspec.config.problems import InvalidConfigError, Place, Problem

Steps: TypeAlias = tuple[str | int, ...]
"""A field's place in nested values."""

MAX_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Of plain values only, with the numbers of YAML 1.2: 1e-3 is one, which it was not in 1.1."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse(text: str) -> Any:
    """Read one value. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Steps, Place]]:
    """Return a file's values, and where each field is.

    Raises:
        InvalidConfigError: it cannot be read, is not YAML, not a mapping of names, or names a field twice.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _invalid(Place(str(path)), f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise _invalid(Place(str(path)), f"is above the limit of {MAX_BYTES} bytes")
    loader = _loader(path, raw)
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        places = dict(_places(str(path), node, ()))
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(str(path), *((mark.line + 1, mark.column + 1) if mark else (None, None)))
        raise _invalid(place, f"is not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _invalid(Place(str(path)), f"is not YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise _invalid(places.get((), Place(str(path))), "is not a mapping of sections: a name, a colon and its values")
    return values, places


def _loader(path: Path, raw: bytes) -> _Loader:
    try:
        return _Loader(raw)
    except yaml.YAMLError as error:
        raise _invalid(Place(str(path)), f"is not YAML: {error}") from None


def _places(path: str, node: yaml.Node, steps: Steps) -> Iterator[tuple[Steps, Place]]:
    """Where each field is: its name, or its place in a list. Raises InvalidConfigError for a name given twice."""
    yield steps, _place(path, node)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, Place] = {}
        for key, value in node.value:
            place = _place(path, key)
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise _invalid(place, f"{key.value!r} is not a name; quote it if it is meant as one", steps)
            if key.value in seen:
                raise _invalid(place, f"is there already, in line {seen[key.value].line}", (*steps, key.value))
            seen[key.value] = place
            _refuse_alias(value, key.start_mark.index, place, (*steps, key.value))
            yield from _places(path, value, (*steps, key.value))
            yield (*steps, key.value), place
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_alias(value, node.start_mark.index, _place(path, node), (*steps, index))
            yield from _places(path, value, (*steps, index))


def _refuse_alias(node: yaml.Node, after: int, place: Place, steps: Steps) -> None:
    """An alias is composed as the node of its anchor, which stands before, and may be what holds the alias."""
    if node.start_mark.index <= after:
        raise _invalid(place, "refers to an anchor; write the value", steps)


def _place(path: str, node: yaml.Node) -> Place:
    return Place(path, node.start_mark.line + 1, node.start_mark.column + 1)


def _invalid(place: Place, message: str, steps: Steps = ()) -> InvalidConfigError:
    return InvalidConfigError([Problem(place, ".".join(map(str, steps)), message)])
