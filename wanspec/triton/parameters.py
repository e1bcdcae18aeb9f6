"""Typed access to the ``parameters`` of a model's config.pbtxt, which are all strings."""

from __future__ import annotations

import json
from collections.abc import Mapping

from wanspec.errors import ConfigError


class Parameters:
    """The parameters of one model. Empty strings count as absent."""

    def __init__(self, model: str, values: Mapping[str, str]) -> None:
        self._model = model
        self.values = {name: value for name, value in values.items() if value != ""}

    @classmethod
    def of(cls, args: Mapping[str, str]) -> Parameters:
        """Read the ``args`` that Triton hands to ``initialize``."""
        config = json.loads(args["model_config"])
        values = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        return cls(args["model_name"], values)

    def text(self, name: str, default: str | None = None) -> str:
        """A string.

        Raises:
            ConfigError: it is absent and has no default.
        """
        value = self.values.get(name, default)
        if value is None:
            raise ConfigError(f"{self._model}: parameters.{name}", "is missing from config.pbtxt")
        return value

    def whole(self, name: str, default: int | None = None, *, minimum: int = 0) -> int:
        """A whole number, at least ``minimum``.

        Raises:
            ConfigError: absent, not a whole number, or too small.
        """
        raw = self.text(name, None if default is None else str(default))
        try:
            value = int(raw)
        except ValueError:
            raise ConfigError(f"{self._model}: parameters.{name}", f"{raw!r} is not a whole number") from None
        if value < minimum:
            raise ConfigError(f"{self._model}: parameters.{name}", f"{value} is below {minimum}")
        return value

    def number(self, name: str, default: float | None = None, *, minimum: float = 0.0) -> float:
        """A number, at least ``minimum``.

        Raises:
            ConfigError: absent, not a number, or too small.
        """
        raw = self.text(name, None if default is None else str(default))
        try:
            value = float(raw)
        except ValueError:
            raise ConfigError(f"{self._model}: parameters.{name}", f"{raw!r} is not a number") from None
        if not value >= minimum:
            raise ConfigError(f"{self._model}: parameters.{name}", f"{value} is below {minimum}")
        return value
