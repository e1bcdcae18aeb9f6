from __future__ import annotations

import pytest

from wanspec.telemetry.context import TraceContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_reads_and_writes_what_w3c_says(flags):
    context = TraceContext.parse(f"00-{TRACE}-{SPAN}-{flags}")
    assert (context.trace, f"{context.span_id:x}") == (TRACE, SPAN)
    assert context.sampled is (flags in ("01", "03"))
    assert str(context) == f"00-{TRACE}-{SPAN}-{'01' if context.sampled else '00'}"


def test_takes_what_later_versions_add():
    assert TraceContext.parse(f"01-{TRACE}-{SPAN}-01-more").trace == TRACE


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_ignores_what_is_malformed(wrong):
    assert TraceContext.parse(wrong) is None


def test_children_are_of_the_same_trace():
    parent = TraceContext.new()
    child = parent.child()
    assert (child.trace_id, child.sampled) == (parent.trace_id, True)
    assert child.span_id != parent.span_id
    assert len({TraceContext.new().trace_id for _ in range(100)}) == 100
