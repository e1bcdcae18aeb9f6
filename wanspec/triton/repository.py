"""Renders a Triton model repository from the templates in ``model_repo/<region>``.

A model's ``config.pbtxt`` is a ``string.Template``: ``${name}`` is replaced by a value, ``$$`` is a dollar sign.
``${model_name}`` needs no value: it is the name that the model is served by.
Everything else is copied. The result is parsed as Triton will parse it, so a mistake is found here and not in the
server's log.
"""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from wanspec.errors import ConfigError

Value: TypeAlias = str | int | float | bool
CONFIG = "config.pbtxt"
MODEL_NAME = "model_name"


@dataclass(frozen=True, slots=True)
class ModelRepository:
    """What to render: ``source`` (a folder of model folders) and, by model, the values of its ``config.pbtxt``.

    ``values`` also chooses the models: one of ``source`` that it does not name is left out. ``templates`` has, by
    model, the folder that it is made from, where that is not the one of its name in ``source``. ``appended`` has text
    that follows a model's own configuration, as it is.
    """

    source: Path
    values: Mapping[str, Mapping[str, Value]]
    templates: Mapping[str, Path] = field(default_factory=dict)
    appended: Mapping[str, str] = field(default_factory=dict)

    def render(self, destination: Path) -> Path:
        """Write the repository into ``destination``, which must not exist or be empty, and return it.

        Raises:
            ConfigError: a model is not in ``source``, a value is missing or used by nothing, or the result is not a
                valid model configuration. Names the file and the key.
        """
        if destination.exists() and any(destination.iterdir()):
            raise ConfigError("repository", f"{destination} is not empty; render into a new folder")
        destination.mkdir(parents=True, exist_ok=True)
        for model, values in self.values.items():
            self._render_model(model, values, destination / model)
        return destination

    def _render_model(self, model: str, values: Mapping[str, Value], destination: Path) -> None:
        source = self.templates.get(model, self.source / model)
        template = source / CONFIG
        if not template.is_file():
            known = ", ".join(models_of(source.parent)) or "none"
            raise ConfigError(f"repository model {model}", f"{template} does not exist; {source.parent} has: {known}")
        text = template.read_text(encoding="utf-8")
        if MODEL_NAME in _names(string.Template(text), template):
            values = {MODEL_NAME: model, **values}
        text = substitute(text, values, file=template) + self.appended.get(model, "")
        check_config(text, model=model, file=template)
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
        (destination / CONFIG).write_text(text, encoding="utf-8")
        if not any(entry.is_dir() and entry.name.isdigit() for entry in destination.iterdir()):
            (destination / "1").mkdir()


def region_folder(region: str) -> Path:
    """``model_repo/<region>`` of the checkout this package is in, or of the installed package.

    Raises:
        ConfigError: there is no such region.
    """
    package = Path(__file__).resolve().parents[1]
    roots = [root for root in (package.parent / "model_repo", package / "model_repo") if root.is_dir()]
    for root in roots:
        if (root / region).is_dir():
            return root / region
    known = ", ".join(sorted(entry.name for root in roots for entry in root.iterdir() if entry.is_dir())) or "none"
    raise ConfigError("region", f"no model repository for {region!r}; regions: {known}")


def models_of(folder: Path) -> list[str]:
    """Names of the models in a repository folder, sorted.

    Raises:
        ConfigError: ``folder`` is not a folder.
    """
    if not folder.is_dir():
        raise ConfigError("repository", f"{folder} is not a folder; give a folder with one folder per model")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def substitute(text: str, values: Mapping[str, Value], *, file: Path) -> str:
    """Replace every ``${name}`` of ``text`` by its value, escaped for a quoted pbtxt string.

    Raises:
        ConfigError: a name without a value, a value without a name in the text, or a stray dollar sign.
    """
    template = string.Template(text)
    names = _names(template, file)
    for missing in sorted(names - values.keys()):
        raise ConfigError(f"{file}: ${{{missing}}}", "has no value; pass one")
    for unknown in sorted(values.keys() - names):
        raise ConfigError(
            f"{file}: {unknown}", f"is not used by this file; it takes: {', '.join(sorted(names)) or 'none'}"
        )
    return template.substitute({name: _escape(value) for name, value in values.items()})


def check_config(text: str, *, model: str, file: Path) -> None:
    """Parse ``text`` as Triton's ``ModelConfig``.

    Raises:
        ConfigError: it does not parse, or its ``name`` is not the model's folder.
    """
    # Imported here: half a second that only those who render pay.
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ConfigError(str(file), f"not a valid model configuration: line {error}") from error
    if config.name not in ("", model):
        raise ConfigError(f"{file}: name", f"is {config.name!r} but the model's folder is {model!r}; make them equal")


def _names(template: string.Template, file: Path) -> set[str]:
    names = set()
    for match in template.pattern.finditer(template.template):
        if match["invalid"] is not None:
            line = template.template.count("\n", 0, match.start()) + 1
            raise ConfigError(
                f"{file}: line {line}", "a dollar sign that starts no ${name}; write $$ for a dollar sign"
            )
        name = match["named"] or match["braced"]
        if name:
            names.add(name)
    return names


def _escape(value: Value) -> str:
    """``value`` as it stands between the quotes of a pbtxt string (or bare, for a number)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's escapes are a subset of protobuf text format's, if non-ASCII characters stay as they are.
    return json.dumps(value, ensure_ascii=False)[1:-1] if isinstance(value, str) else str(value)
