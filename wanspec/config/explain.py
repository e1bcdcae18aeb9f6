"""Errors of a typed YAML file in words: which field, what is wrong with it, in which line."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from wanspec.config.problems import Place, Problem
from wanspec.config.yaml_file import Steps
from wanspec.errors import ConfigError, InvalidRequestError

_FIELDS: Mapping[str, Steps] = {"policy": ("name",), "policy_parameters": ("parameters",)}
"""What an error of a policy calls the fields of its section."""


def problems(
    error: ValidationError, root: type[BaseModel], places: Mapping[Steps, Place], otherwise: Place, what: str
) -> list[Problem]:
    """All that pydantic found, one problem a field, in the order of the file.

    Args:
        error: of validating ``root``.
        root: what the file holds.
        places: where each field is.
        otherwise: the place of fields that are nowhere.
        what: what the file is, with its article: ``a configuration``.
    """
    found: dict[str, Problem] = {}
    for each in error.errors(include_url=False):
        steps, message = _steps(each["loc"], root), each["msg"]
        cause = each.get("ctx", {}).get("error")
        if isinstance(cause, (ConfigError, InvalidRequestError)):
            name, *rest = cause.field.split(".")
            steps += (*_FIELDS.get(name, (name,)), *rest)
            message = str(cause).partition(": ")[2]
        elif each["type"] == "extra_forbidden":
            message = f"is not a field of {what}" + _hint(steps, root)
        elif isinstance(cause, ValueError):
            message = str(cause)
        elif each["type"] != "missing" and SecretStr not in kinds(steps, root):
            message = f"{message}, not {str(each['input'])[:60]!r}"
        field = ".".join(map(str, steps))
        if field not in found:  # a union tells of each of its types
            found[field] = Problem(nearest(steps, places, otherwise), field, message)
    return sorted(found.values(), key=lambda each: (each.place.source, each.place.line or 0))


def kinds(steps: Steps, root: type[BaseModel]) -> list[Any]:
    """The types and words that a field may have, null aside; none for what is no field."""
    kind: Any = root
    for step in steps:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or step not in kind.model_fields:
            return []
        kind = _model(kind.model_fields[str(step)].annotation)
    return [each for each in _members(kind) if each is not NoneType]


def nearest(steps: Steps, places: Mapping[Steps, Place], otherwise: Place) -> Place:
    """Where a field is, or what is in it, or what it is in."""
    within = (place for place in places if place[: len(steps)] == steps)
    around = (steps[:end] for end in range(len(steps) - 1, -1, -1) if steps[:end] in places)
    return next((places[found] for found in chain(within, around)), otherwise)


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType, Literal):
        return [member for each in get_args(kind) for member in _members(each)]
    return [kind]


def _model(kind: Any) -> Any:
    """The one model that an optional field may hold; other types as they are."""
    models = [each for each in _members(kind) if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if len(models) == 1 else kind


def _hint(steps: Steps, root: type[BaseModel]) -> str:
    """Name the field that a wrong one looks like."""
    kind: Any = root
    for step in steps[:-1]:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or step not in kind.model_fields:
            return ""
        kind = _model(kind.model_fields[str(step)].annotation)
    names = list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
    close = get_close_matches(str(steps[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _steps(location: tuple[int | str, ...], root: type[BaseModel]) -> Steps:
    """A field's place, without the steps that name a type of a union."""
    steps: list[int | str] = []
    kind: Any = root
    for step in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            steps.append(step)
            kind = _model(kind.model_fields[str(step)].annotation) if step in kind.model_fields else None
        elif get_origin(kind) is dict:
            steps.append(step)
            kind = None
    return tuple(steps)
