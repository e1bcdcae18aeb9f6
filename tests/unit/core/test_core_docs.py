"""docs/protocol.md and docs/architecture.md against the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.unit.core.core_doubles import PRINT, hash_of
from wanspec.core import codecs, messages, wire
from wanspec.core.config import ControllerConfig, LinkConfig, WorkerConfig
from wanspec.core.estimators import TAIL_ENTROPY_NATS, entropy_from_log_prob
from wanspec.core.messages import (
    PROTOCOL_VERSION,
    ROOT,
    DraftNode,
    Drafts,
    Frame,
    Header,
    LostCode,
    PassReport,
    RefuseCode,
)
from wanspec.core.policies import POLICIES

ROOT_FOLDER = Path(__file__).parents[3]
PROTOCOL = (ROOT_FOLDER / "docs/protocol.md").read_text()
ARCHITECTURE = (ROOT_FOLDER / "docs/architecture.md").read_text()


def section(text, title):
    """The text below a heading, up to the next heading."""
    return re.split(r"^#+ ", text.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text):
    """Cells of all table rows, without headings and rules."""
    found = [[c.strip(" `") for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [
        row
        for i, row in enumerate(found)
        if not row[0].startswith("---") and not (i + 1 < len(found) and found[i + 1][0].startswith("---"))
    ]


def test_message_types_layouts_and_sizes():
    documented = {row[1]: (int(row[0]), row[3].strip("`"), int(row[4])) for row in rows(section(PROTOCOL, "Messages"))}
    structs = {
        "Hello": codecs._HELLO,
        "Welcome": codecs._WELCOME,
        "Refuse": codecs._REFUSE,
        "Open": codecs._OPEN,
        "Commit": codecs._COMMIT,
        "Close": codecs._CLOSE,
        "Drafts": codecs._DRAFTS,
        "PassReport": codecs._PASS,
        "Prefilled": codecs._PREFILLED,
        "Lost": codecs._LOST,
    }
    coded = {k.__name__: (n, structs[k.__name__].format, structs[k.__name__].size) for n, k, _, _ in codecs._CODECS}
    assert documented == coded
    least, most = (codecs._nodes_struct(1, widest, widest).size for widest in (0, 2))
    assert f"A node takes {least} to {most} bytes" in PROTOCOL
    assert f"The header takes {wire._HEADER.size} bytes" in PROTOCOL
    assert f"prefix of {wire._PREFIX.size} bytes" in PROTOCOL
    assert f"Largest frame: {wire.MAX_FRAME_BYTES:,} bytes" in PROTOCOL
    assert f"Version {PROTOCOL_VERSION}." in PROTOCOL


def test_header_offsets():
    offsets = [int(row[0]) for row in rows(section(PROTOCOL, "A frame"))]
    sizes = [2, 1, 1, 2, 4, 8, 8, 8, 8]
    assert offsets == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == wire._HEADER.size


@pytest.mark.parametrize("kind", [*codecs.TYPES], ids=lambda k: k.__name__)
def test_every_field_of_every_message(kind):
    names = [row[0] for row in rows(section(PROTOCOL, kind.__name__)) if row[0] and not row[0].isdigit()]
    expected = list(getattr(kind, "_fields", None) or [f.name for f in fields(kind)])
    if kind is messages.Open:
        expected += [f.name for f in fields(messages.Drafting)]
    if kind is Drafts:
        expected += list(DraftNode._fields)
    assert sorted(names) == sorted(expected)


def test_codes():
    lost = {row[1]: int(row[0]) for row in rows(section(PROTOCOL, "Lost")) if row[0].isdigit()}
    assert lost == {code.name: code.value for code in LostCode}
    refuse = dict(re.findall(r"(\d) ([A-Z]+)", section(PROTOCOL, "Refuse")))
    assert refuse == {str(code.value): code.name for code in RefuseCode}
    assert str(ROOT) in PROTOCOL


def test_timing_defaults():
    configs = (LinkConfig(), WorkerConfig(PRINT), ControllerConfig(PRINT))
    documented = rows(section(PROTOCOL, "Liveness and timing"))
    assert len(documented) >= 12
    for name, default, _ in documented:
        assert float(default) in [float(getattr(c, name)) for c in configs if getattr(c, name, None) is not None], name
    assert {f.name for f in fields(LinkConfig)} <= {row[0] for row in documented}


def test_worked_example():
    block = PROTOCOL.split("```hex\n")[1].split("```")[0]
    data = bytes.fromhex(
        "".join(re.match(r"(?:[0-9a-f]{2} )+(?= |$)|(?:[0-9a-f]{2} ?)+", line)[0] for line in block.splitlines())
    )
    frame = Frame(
        Header(0x1122334455667788, 7, 1_000_000, 990_000, 998_500),
        (
            PassReport(7.5, 0.25, 2, 1),
            Drafts(3, 1, 4, hash_of((5, 6, 7, 8)), 2, 2, (DraftNode(ROOT, 42, -0.25), DraftNode(2, 17, -1.5))),
        ),
    )
    assert wire.decode(data) == frame
    assert wire.encode(frame) == data
    assert f"{len(data)} bytes, before gRPC" in PROTOCOL


def test_policies_and_their_parameters():
    section_rows = rows(section(ARCHITECTURE, "Policies"))
    assert [row[0] for row in section_rows if len(row) == 2] == list(POLICIES)
    documented = {(row[0], row[1]): (row[2], row[3]) for row in section_rows if len(row) == 5}
    coded = {}
    for name, kind in POLICIES.items():
        for parameter in (f for f in fields(kind) if f.init):
            limits = kind.limits[parameter.name]
            words = ", ".join(limits) if isinstance(parameter.default, str) else f"{limits[0]:g} to {limits[1]:g}"
            default = parameter.default if isinstance(parameter.default, str) else f"{parameter.default:g}"
            coded[name, parameter.name] = (default, words)
    assert documented == coded


def test_figures_in_the_text():
    config = ControllerConfig(PRINT)
    assert f"a constant of {TAIL_ENTROPY_NATS:.1f} nats" in ARCHITECTURE
    assert entropy_from_log_prob(-0.0797) == pytest.approx(0.5, abs=0.01)  # ln 0.923
    assert f"`engine_ms`, {config.engine_ms / 1000:g} s" in ARCHITECTURE
    assert f"{config.reopen_limit} times at most" in ARCHITECTURE
    assert "max(25 ms, RTT p90 + 2 worker passes p90)" in ARCHITECTURE


def test_files_named_exist():
    for name in re.findall(r"`((?:wanspec|tests)/[\w/.]+)`", ARCHITECTURE + PROTOCOL):
        assert (ROOT_FOLDER / name).exists(), name
    for name in re.findall(r"`(\w+\.py)`", section(ARCHITECTURE, "One brain, many bodies")):
        assert (ROOT_FOLDER / "wanspec/core" / name).exists(), name
    for name in re.findall(r"\]\(([\w/.]+)", ARCHITECTURE + PROTOCOL):
        assert (ROOT_FOLDER / "docs" / name).exists(), name
