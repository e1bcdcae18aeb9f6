"""Puts a configuration together: the defaults, a file, the environment, each before the one that follows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from wanspec.config.explain import kinds, problems
from wanspec.config.problems import InvalidConfigError, Place, Problem
from wanspec.config.schema import Config
from wanspec.config.yaml_file import Steps, parse, read_yaml

PREFIX, SEPARATOR = "WANSPEC_", "__"


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
        otherwise = Place("" if file is None else str(file))
        raise InvalidConfigError(problems(error, Config, places, otherwise, "a configuration")) from None


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
    known = kinds(steps, Config)
    return bool(known) and all(isinstance(each, str) or each in (str, Path, SecretStr) for each in known)
