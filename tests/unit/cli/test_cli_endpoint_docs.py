"""docs/endpoint.md says what the model's configuration and code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wanspec.core.policies import POLICIES
from wanspec.core.rounds import Tally
from wanspec.defaults import default_of
from wanspec.triton import endpoint
from wanspec.triton.regions import RegionSettings
from wanspec.triton.request_tensors import MAX_TEXT_BYTES

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "endpoint.md").read_text()
CONFIG = (ROOT / "model_repo" / "controller" / "wanspec" / "config.pbtxt").read_text()
TENSOR = re.compile(r'name: "(?P<name>\w+)", data_type: TYPE_(?P<type>\w+), dims: \[ (?P<dims>-?\d+) \]')


def documented(title):
    section = DOCS.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip(" `") for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if "|" in line
    ]
    return {row[0]: row for row in rows[2:]}


def configured(kind):
    block = re.search(rf"^{kind} \[\n(.*?)^\]", CONFIG, re.M | re.S)[1]
    return {found["name"]: (found["type"], f"[{found['dims']}]") for found in TENSOR.finditer(block)}


@pytest.mark.parametrize(("title", "kind"), [("Inputs", "input"), ("Outputs", "output")])
def test_names_types_and_shapes(title, kind):
    written = {name: (row[1], row[2]) for name, row in documented(title).items()}
    assert written == configured(kind)


def test_the_code_has_the_same_inputs_and_outputs():
    assert tuple(documented("Inputs")) == endpoint.INPUTS
    assert tuple(documented("Outputs")) == endpoint.OUTPUTS


def test_limits_and_defaults():
    assert str(endpoint.DEFAULT_MAX_TOKENS) in documented("Inputs")["max_tokens"][3]
    longest = [default_of(RegionSettings, name) for name in ("deadline_ms", "max_deadline_ms")]
    assert re.findall(r"\d{2,}", " ".join(documented("Inputs")["deadline_ms"])) == [
        "32",
        *(f"{ms:.0f}" for ms in longest),
    ]
    assert f"{MAX_TEXT_BYTES >> 20} MiB" in documented("Inputs")["text_input"][-2]
    assert re.findall(r"`(\w+)`", DOCS.split("How to decode:")[1].split("|")[0]) == list(POLICIES)


def test_the_summary_has_every_field():
    of_sequence = [
        "policy",
        "regime",
        "finish_reason",
        "prompt_tokens",
        "output_tokens",
        "queued_ms",
        "latency_ms",
        "ttft_ms",
        "rtt_ms",
        "pass_ms",
        "seed",
    ]
    assert list(documented("The summary")) == [*of_sequence, *Tally().as_dict()]
