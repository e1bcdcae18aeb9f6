"""Event logs: what they hold, and how a bad one is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.core_doubles import Rig, finished, one
from wanspec.core.config import ControllerConfig, Fingerprint, LinkConfig
from wanspec.core.controller import Controller
from wanspec.core.costs import CostModel, CostTable
from wanspec.core.eventlog import event_line, read_log, start_line
from wanspec.core.events import (
    Cancelled,
    Connected,
    Disconnected,
    Drafted,
    Failed,
    Observed,
    Received,
    Request,
    Submitted,
    Tick,
    Verified,
    Verify,
)
from wanspec.core.replay import replay
from wanspec.errors import ProtocolError

TABLE = CostTable((1, 4), (0, 99), ((1.0, 2.0), (3.0, 4.0)))
CONFIG = ControllerConfig(
    Fingerprint(b"t" * 32, 50, "d"),
    links=2,
    link=LinkConfig(ping_ms=77.0),
    auth_token="secret",
    context=99,
    verify_costs=CostModel(TABLE, TABLE, {"model": "m"}),
)

u32 = st.integers(0, (1 << 32) - 1)
action = st.tuples(u32, u32)
floats = st.floats(allow_nan=False, allow_infinity=False)
tokens = st.lists(u32, max_size=5).map(tuple)
log_probs = st.lists(floats, max_size=5).map(tuple)
parameters = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), floats, st.text(max_size=5)), max_size=3)
request = st.builds(
    Request,
    tokens,
    u32,
    st.frozensets(u32, max_size=3),
    st.text(max_size=9),
    parameters,
    st.booleans(),
    floats,
    st.text(),
)
event = st.one_of(
    st.builds(Submitted, u32, request),
    st.builds(Cancelled, u32),
    st.builds(Verified, action, tokens, log_probs, floats),
    st.builds(Drafted, action, tokens, log_probs, floats),
    st.builds(Failed, action, st.text()),
    st.builds(Connected, u32),
    st.builds(Disconnected, u32, st.text()),
    st.builds(Received, u32, st.binary(max_size=50)),
    st.just(Tick()),
    st.builds(Observed, st.text(), floats),
)


def begun():
    lines = []
    controller = Controller(CONFIG, instance=b"c" * 16, log=lines.append)
    controller.handle(Tick(), 5.0)
    return controller, lines


@given(event, floats)
def test_events_survive_their_line(event, now):
    _, lines = begun()
    line = event_line(event, now)
    assert "\n" not in line
    json.loads(line, parse_constant=pytest.fail)
    assert read_log([lines[0], line])[2] == [(now, event)]


def test_a_log_begins_with_what_the_controller_was():
    controller, lines = begun()
    start, began, entries = read_log(["", *lines])
    assert start.config == replace(CONFIG, auth_token="")
    assert (start.instance, began, entries) == (controller.instance, 5.0, [(5.0, Tick())])
    assert "secret" not in "".join(lines)
    assert start.config.auth_token == ""
    json.loads(lines[0], parse_constant=pytest.fail)
    assert replay(lines) == {}


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], "event log: empty"),
        (["", " "], "event log: empty"),
        (["nonsense"], "event log line 1: JSONDecodeError"),
        (['{"log": 99}'], "event log line 1: ValueError: log version 99, this program reads 3"),
        (['{"log": 3}'], "event log line 1: KeyError"),
        ([None, '{"t": 1, "e": "Nonsense"}'], "event log line 2: KeyError: 'Nonsense'"),
        ([None, '{"t": 1, "e": "Cancelled"}'], "event log line 2: TypeError"),
        ([None, '{"t": 1, "e": "Received", "link": 0, "data": "x"}'], "event log line 2"),
        ([None, "[]"], "event log line 2"),
    ],
)
def test_a_log_that_cannot_be_read_says_where(lines, match):
    first = begun()[1][0]
    with pytest.raises(ProtocolError, match=match):
        read_log([first if line is None else line for line in lines])


def linked_up(rig):
    rig.link_up()
    rig.do(Tick(), rig.now + 250.0)  # a ping, which nobody answers


def reconnecting(rig):
    for _ in range(3):
        rig.do(Tick(), max(rig.now, rig.controller.deadline()))
        rig.do(Disconnected(0, "refused"))


def connecting(rig):
    rig.do(Tick())


def greeting(rig):
    rig.do(Tick())
    rig.do(Connected(0), rig.now + 30.0)


def untouched(rig):
    pass


@pytest.mark.parametrize("reach", [untouched, connecting, greeting, linked_up, reconnecting])
def test_a_replay_finds_the_links_as_they_were(reach):
    """What a link does next depends on its past; two controllers, one restored, must go on alike for a minute."""
    rig = Rig()
    reach(rig)
    start, _, _ = read_log([start_line(rig.controller.log_start(), rig.now)])
    again = Controller(start.config, instance=start.instance)
    again.restore_links(start.links)
    assert again.links[0].snapshot() == rig.link.snapshot()
    kinds = 0
    while rig.now < 60_000.0:
        assert again.deadline() == rig.controller.deadline()
        rig.now = max(rig.now, again.deadline())
        expected = [type(action) for action in rig.controller.handle(Tick(), rig.now)]
        assert [type(action) for action in again.handle(Tick(), rig.now)] == expected
        assert again.links[0].state is rig.link.state
        kinds += len(expected)
    assert kinds > 5


def test_a_requests_log_holds_others_times_and_not_their_tokens():
    rig = Rig()
    mine = rig.submit(1, policy="target_only", record=True)
    theirs = rig.submit(2, prompt=(88,), policy="target_only")
    rig.do(Verified(one(Verify, theirs).action, (89,), (), 33.0))
    rig.do(Verified(one(Verify, mine).action, (9,), (), 20.0))
    lines = finished(rig.do(Cancelled(1))).log
    events = [e for _, e in read_log(lines)[2]]
    assert [type(e) for e in events] == [Submitted, Observed, Observed, Verified, Cancelled]
    assert events[1] == Observed("verify", 33.0)
    assert events[3].tokens == (9,)
