"""docs/endpoint.md says what the model's configuration and code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wanspec.core.admission import MAX_CONVERSATION
from wanspec.core.policies import POLICIES
from wanspec.core.rounds import Tally
from wanspec.defaults import default_of
from wanspec.triton import endpoint
from wanspec.triton.regions import RegionSettings
from wanspec.triton.request_tensors import MAX_TEXT_BYTES

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "endpoint.md").read_text()
CONFIG = (ROOT / "model_repo" / "controller" / "wanspec" / "config.pbtxt").read_text()
TENSOR = re.compile(r'\{ name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([-\d, ]+) \](, optional: true)? \}')


def documented(title):
    section = DOCS.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip(" `") for cell in line[1:-1].split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in rows[2:]}


def tensors(kind):
    return {name: row for name, row in documented("Inputs and outputs").items() if row[1] == kind}


def configured(kind):
    """Name, type, shape, and whether it is optional, of every tensor that Triton is told of."""
    block = re.search(rf"^{kind} \[\n(.*?)^\]", CONFIG, re.M | re.S)[1]
    found = [(name, (of_type, f"[{dims}]", bool(optional))) for name, of_type, dims, optional in TENSOR.findall(block)]
    assert len(found) == block.count("name:"), "every one of them was understood"
    return dict(found)


@pytest.mark.parametrize("kind", ["input", "output"])
def test_names_types_shapes_and_what_is_optional(kind):
    written = {name: (row[2], row[3], row[4] == "yes") for name, row in tensors(kind).items()}
    assert written == configured(kind)
    assert len(written) == DOCS.count(f"| {kind} |"), "each stands in the table once"


def test_the_table_holds_inputs_and_outputs_only():
    assert {row[1] for row in documented("Inputs and outputs").values()} == {"input", "output"}


def test_the_code_has_the_same_inputs_and_outputs():
    assert tuple(tensors("input")) == endpoint.INPUTS
    assert tuple(tensors("output")) == endpoint.OUTPUTS


def test_limits_and_defaults():
    inputs = tensors("input")
    assert str(endpoint.DEFAULT_MAX_TOKENS) in inputs["max_tokens"][5]
    longest = [default_of(RegionSettings, name) for name in ("deadline_ms", "max_deadline_ms")]
    assert re.findall(r"\d{4,}", " ".join(inputs["deadline_ms"])) == [f"{ms:.0f}" for ms in longest]
    assert f"{MAX_TEXT_BYTES >> 20} MiB" in inputs["text_input"][6]
    assert inputs["conversation_id"][6] == f"{MAX_CONVERSATION} characters"
    assert inputs["num_draft_tokens"][6] == f"0 to {endpoint.MOST_DRAFTS}"
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
