"""The configuration written down: as a reference page, and with its values as YAML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from wanspec.config.load import Loaded
from wanspec.config.schema import Config

INTRODUCTION = """\
# Configuration

<!-- Made by `wanspec config schema --markdown`; a test compares it. -->

One YAML file, and variables of the environment, give the defaults of the options of `wanspec up`, `demo`, `generate`,
`chat` and `serve-openai`. What is typed on the command line goes before the environment, that before the file.

```bash
wanspec config show > wanspec.yaml      # every field; those at their defaults are commented out
wanspec config check wanspec.yaml       # what is wrong, with line and column
wanspec up --config wanspec.yaml        # or WANSPEC_CONFIG=wanspec.yaml
WANSPEC_REGIONS__DTYPE=float64 wanspec up
wanspec config schema > schema.json     # JSON Schema, for editors
```

A variable is named `WANSPEC_<SECTION>__<FIELD>`. Its value is YAML, such as `WANSPEC_POLICY__PARAMETERS='{k: 3}'`, but
for fields of text, which take it as it is. Fields that are not known, and values of another type, are refused.

`up` uses all sections but the last three. `demo` takes `regions.pair`, `regions.pace_ms`, `link.rtt_ms` and
`generation.max_tokens`. `generate` and `chat` take `endpoint`, `policy` and `generation`; `serve-openai` these and
`openai`; `control` takes `endpoint.url` and `server.auth_token_file`. A pair or a model that is typed replaces those
of the file; another policy that is typed leaves out its parameters.

```yaml
regions:
  pair: small
  dtype: float64
  pace_ms: {target: 100, draft: 30, worker: 30}
link:
  rtt_ms: 70
policy:
  name: local
  parameters:
    k: 3
```
"""


def markdown() -> str:
    """The reference page."""
    schema = Config.model_json_schema()
    parts = [INTRODUCTION]
    for name, field in Config.model_fields.items():
        section = schema["$defs"][_model(field.annotation).__name__]
        parts.append(f"\n## {name}\n\n{section['description']}\n")
        parts.append("\n| field | type | default | meaning |\n|---|---|---|---|\n")
        for field_name, kind, default, meaning in _rows(schema, section, ""):
            parts.append(f"| `{field_name}` | {kind} | {default} | {meaning} |\n")
    return "".join(parts)


def as_yaml(loaded: Loaded) -> str:
    """Every value, to be read again: defaults are commented out, what is given says where it comes from."""
    lines = []
    for name in Config.model_fields:
        lines.append(f"{name}:")
        for field in _model(Config.model_fields[name].annotation).model_fields:
            section = getattr(loaded.config, name)
            from_here = [str(place) for steps, place in loaded.places.items() if steps[:2] == (name, field)]
            line = f"{field}: {_scalar(getattr(section, field))}"
            given = field in section.model_fields_set
            lines.append(f"  {line}  # {from_here[0]}" if given else f"  # {line}")
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], section: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section["properties"].items():
        inner = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2])
        if inner is not None:
            yield from _rows(schema, inner, f"{prefix}{name}.")
            continue
        default = "none" if field["default"] is None else f"`{_scalar(field['default'])}`"
        yield prefix + name, _kind(field), default, field["description"]


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"] if each != {"type": "null"})
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    name = {"integer": "whole number", "string": "text", "boolean": "true or false", "object": "mapping"}.get(
        field["type"], field["type"]
    )
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    limits = [f"{word} {field[limit]:g}" for limit, word in words.items() if limit in field]
    return " ".join([name, *limits])


def _scalar(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "null  # set, and not shown"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=bool(value.model_fields_set))
    plain = value if value is None or isinstance(value, (bool, int, float, str, dict)) else str(value)
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _model(kind: Any) -> type[BaseModel]:
    assert isinstance(kind, type)
    assert issubclass(kind, BaseModel)
    return kind
