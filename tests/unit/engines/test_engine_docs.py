"""docs/engines.md against the code and the model configurations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from wanspec.engines import inputs
from wanspec.engines.inputs import IGNORED, UNSUPPORTED, read_request
from wanspec.errors import InvalidRequestError

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"^\| `(\w+)` \| (\w+) (\[[^]]*\]) \| ([a-z ]+) \|(.*)\|$", re.MULTILINE)
NEUTRAL = {"runtime_top_p_decay": 1, "prompt_vocab_size": 0}


def table(heading: str) -> dict[str, tuple[str, str, str]]:
    """name: (type, dims, status)."""
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = ROW.findall(section)
    assert len(rows) == section.count("\n| `"), "a row of the table is malformed"
    return {name: (kind, re.sub(r"[a-z]\w*", "-1", dims), status) for name, kind, dims, status, _ in rows}


def declared(model: str, section: str) -> dict[str, tuple[str, str]]:
    text = (ROOT / "model_repo" / "controller" / model / "config.pbtxt").read_text(encoding="utf-8")
    start = text.index(f"\n{section} [")
    found = re.findall(
        r'name: "(\w+)" data_type: TYPE_(\w+) dims: \[ ([^]]*) \]', text[start : text.index("\n]", start)]
    )
    return {name: (kind, f"[{dims}]") for name, kind, dims in found}


@pytest.mark.parametrize("model", ["target", "draft"])
def test_every_declared_tensor_is_documented(model: str) -> None:
    documented = {name: (kind, dims) for name, (kind, dims, _) in table("Inputs").items()}
    assert documented == declared(model, "input")
    for name, (kind, dims, _) in table("Outputs").items():
        # Of the beam, which is always one, the table says so.
        assert declared(model, "output")[name][0] == kind
        assert dims.count(",") == declared(model, "output")[name][1].count(",")
    assert table("Outputs").keys() == declared(model, "output").keys()


def test_refused_inputs_are_those_that_the_code_refuses() -> None:
    rows = table("Inputs")
    assert {name for name, row in rows.items() if row[2] == "refused"} == set(UNSUPPORTED)
    assert {name for name, row in rows.items() if row[2] == "ignored"} == set(IGNORED)
    assert {row[2] for row in rows.values()} == {"required", "supported", "refused", "ignored"}


@pytest.mark.parametrize(("name", "row"), table("Inputs").items())
def test_each_input_is_treated_as_documented(name: str, row: tuple[str, str, str]) -> None:
    base = {
        "input_ids": np.array([[1, 2]], np.int32),
        "input_lengths": np.array([[2]], np.int32),
        "request_output_len": np.array([[1]], np.int32),
    }
    status = row[2]
    if status == "required":
        with pytest.raises(InvalidRequestError, match=f"{name}: is missing"):
            read_request({key: value for key, value in base.items() if key != name})
    elif status == "refused":
        with pytest.raises(InvalidRequestError, match=f"{name}: is not supported"):
            read_request(base | {name: np.full((1, 1), 7)})
        if name in NEUTRAL:
            read_request(base | {name: np.full((1, 1), NEUTRAL[name])})
    elif status == "ignored":
        assert str(read_request(base | {name: np.full((1, 1), 7)})) == str(read_request(base))
    else:
        assert f'"{name}"' in Path(inputs.__file__).read_text(encoding="utf-8"), "supported, but read nowhere"
