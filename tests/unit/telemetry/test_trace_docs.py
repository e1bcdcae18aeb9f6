"""docs/traces.md names every attribute and event that is exported, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.telemetry.trace_doubles import CALLER, RESOURCE, received, record
from wanspec.core.events import Finished, Request
from wanspec.core.roundlog import RTT_SPIKE
from wanspec.core.sampling import Sampling
from wanspec.core.workercounters import PassRecord, SequenceRecord
from wanspec.telemetry.request_spans import request_spans
from wanspec.telemetry.worker_spans import sequence_spans

DOCS = (Path(__file__).parents[3] / "docs" / "traces.md").read_text()
CORE = Path(__file__).parents[3] / "wanspec" / "core"


def table(title):
    """(span, name) of each row of a section's table."""
    section = DOCS.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([a-z.]+)` \| `([^`]+)` \|", section, re.MULTILINE))


def exported():
    asked = Request((1, 2, 3), 4, sampling=Sampling(0.8, 40, 0.95, 7), conversation="talk")
    failed = Finished(0, "refused", {}, "policy: 'magic' is unknown")
    spans = request_spans(record(request=asked), RESOURCE, str) + request_spans(record(finished=failed), RESOURCE)
    passes = [PassRecord(10.0, 18.0, 7.0, 1.0, 2, 4, 31, 64)]
    lost = SequenceRecord(5, 2, str(CALLER), 9.0, 30.0, "lost: desync", 12, 12, passes)
    return received(spans + sequence_spans(lost, RESOURCE, 0))


def test_the_table_has_every_attribute():
    found = {
        (span.name, re.sub(r"^wanspec\.score\..*", "wanspec.score.*", name))
        for span in exported()
        for name in span.attributes
    }
    assert found == table("Attributes")


def test_spans_and_resources_are_named():
    for span in exported():
        assert f"{span.name} " in DOCS.partition("```text")[2].partition("```")[0] or span.name == "wanspec.request"
    assert {name for name in exported()[0].resource if not name.startswith("telemetry.")} == {
        "service.name",
        "service.instance.id",
        "service.version",
        "cloud.region",
    }
    for name in exported()[0].resource:
        assert f"`{name}`" in DOCS or name.startswith("telemetry.")


def test_the_events_are_those_of_the_core():
    known = {name.partition(":")[0] for span, name in table("Events") if span == "wanspec.round"}
    code = "".join((CORE / name).read_text() for name in ("sequence.py", "controller.py"))
    logged = {name.partition(":")[0] for name in re.findall(r'log\.event\(f?"([^"{]+)', code)}
    assert known == logged | {RTT_SPIKE}
