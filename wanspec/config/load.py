"""Puts a configuration together: the defaults, a file, the environment, each before the one that follows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from wanspec.config.problems import InvalidConfigError, Place, Problem
from wanspec.config.schema import Config
from wanspec.config.yaml_file import Steps, parse, read_yaml
from wanspec.errors import ConfigError, InvalidRequestError

PREFIX, SEPARATOR = "WANSPEC_", "__"
_FIELDS: Mapping[str, Steps] = {"policy": ("name",), "policy_parameters": ("parameters",)}
"""What an error of a policy calls the fields of its section."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where each value that is not a default comes from."""

    config: Config
    places: Mapping[Steps, Place]

    def given(self) -> Iterator[tuple[str, str, Any]]:
        """Yield section, field and value of what is not left at its default."""
        for section in sorted(self.config.model_fields_set, key=list(type(self.config).model_fields).index):
            values = getattr(self.config, section)
            for name in sorted(values.model_fields_set):
                yield section, name, getattr(values, name)


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read a configuration.

    Args:
        file: in YAML; none for the defaults.
        environment: ``WANSPEC_<SECTION>__<FIELD>`` go before the file; this process's own where None.

    Raises:
        InvalidConfigError: with everything that is wrong and where.
    """
    values, places = read_yaml(file) if file is not None else ({}, {})
    for name, text in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(PREFIX) and SEPARATOR in name:
            _override(values, places, name, text)
    values = {section: fields for section, fields in values.items() if fields is not None}  # all is commented out
    try:
        return Loaded(Config.model_validate(values), places)
    except ValidationError as error:
        raise InvalidConfigError(_problems(error, places, Place("" if file is None else str(file)))) from None


def _override(values: dict[str, Any], places: dict[Steps, Place], name: str, text: str) -> None:
    steps = tuple(name.removeprefix(PREFIX).lower().split(SEPARATOR))
    inner = values
    for depth, step in enumerate(steps[:-1]):
        if not isinstance(inner.get(step), dict):
            inner[step] = {}
            for stale in [place for place in places if place[: depth + 1] == steps[: depth + 1]]:
                del places[stale]
        inner = inner[step]
    inner[steps[-1]] = text if _is_text(steps) else _scalar(name, text)
    for stale in [place for place in places if place[: len(steps)] == steps]:
        del places[stale]
    places[steps] = Place(name)


def _scalar(name: str, text: str) -> Any:
    try:
        return parse(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InvalidConfigError([Problem(Place(name), "", f"{text!r} is not a YAML value; quote it")]) from None


def _is_text(steps: Steps) -> bool:
    """Whether a field holds words only: these are taken as they are, digits and all."""
    kinds = _kinds(steps)
    return bool(kinds) and all(isinstance(each, str) or each in (str, Path, SecretStr) for each in kinds)


def _kinds(steps: Steps) -> list[Any]:
    """The types and words that a field may have, null aside; none for what is no field."""
    kind: Any = Config
    for step in steps:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or step not in kind.model_fields:
            return []
        kind = kind.model_fields[str(step)].annotation
    return [each for each in _members(kind) if each is not NoneType]


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType, Literal):
        return [member for each in get_args(kind) for member in _members(each)]
    return [kind]


def _hint(steps: Steps) -> str:
    """Name the field that a wrong one looks like."""
    kind: Any = Config
    for step in steps[:-1]:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or step not in kind.model_fields:
            return ""
        kind = kind.model_fields[str(step)].annotation
    names = list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
    close = get_close_matches(str(steps[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _problems(error: ValidationError, places: Mapping[Steps, Place], otherwise: Place) -> list[Problem]:
    found: dict[str, Problem] = {}
    for each in error.errors(include_url=False):
        steps, message = _steps(each["loc"]), each["msg"]
        cause = each.get("ctx", {}).get("error")
        if isinstance(cause, (ConfigError, InvalidRequestError)):
            name, *rest = cause.field.split(".")
            steps += (*_FIELDS.get(name, (name,)), *rest)
            message = str(cause).partition(": ")[2]
        elif each["type"] == "extra_forbidden":
            message = "is not a field of a configuration" + _hint(steps)
        elif isinstance(cause, ValueError):
            message = str(cause)
        elif each["type"] != "missing" and SecretStr not in _kinds(steps):
            message = f"{message}, not {str(each['input'])[:60]!r}"
        field = ".".join(map(str, steps))
        if field not in found:  # a union tells of each of its types
            found[field] = Problem(_nearest(steps, places, otherwise), field, message)
    return sorted(found.values(), key=lambda each: (each.place.source, each.place.line or 0))


def _steps(location: tuple[int | str, ...]) -> Steps:
    """A field's place, without the steps that name a type of a union."""
    steps: list[int | str] = []
    kind: Any = Config
    for step in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            steps.append(step)
            kind = kind.model_fields[str(step)].annotation if step in kind.model_fields else None
        elif get_origin(kind) is dict:
            steps.append(step)
            kind = None
    return tuple(steps)


def _nearest(steps: Steps, places: Mapping[Steps, Place], otherwise: Place) -> Place:
    within = (place for place in places if place[: len(steps)] == steps)
    around = (steps[:end] for end in range(len(steps) - 1, -1, -1) if steps[:end] in places)
    return next((places[found] for found in chain(within, around)), otherwise)
