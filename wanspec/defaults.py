"""Defaults have one place: the dataclass that holds the value."""

from __future__ import annotations

import dataclasses
from typing import Any


def default_of(kind: type[Any], name: str) -> Any:
    """The default of a dataclass's field. Raises KeyError for a field that is not there."""
    field = {each.name: each for each in dataclasses.fields(kind)}[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
