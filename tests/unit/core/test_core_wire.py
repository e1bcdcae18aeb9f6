"""The wire format: round trips, damage, limits."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanspec.core import codecs, wire
from wanspec.core.messages import (
    ROOT,
    Close,
    Commit,
    Drafting,
    DraftNode,
    Drafts,
    Frame,
    Header,
    Hello,
    Lost,
    LostCode,
    Open,
    PassReport,
    Prefilled,
    Refuse,
    RefuseCode,
    Welcome,
    make_node,
)
from wanspec.core.wire import MAX_FRAME_BYTES, decode, encode, message_bytes, split
from wanspec.errors import ProtocolError

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
f32 = st.floats(width=32, allow_nan=False)
text = st.text(max_size=40)
tokens = st.lists(u32, max_size=20).map(tuple)
uuid = st.binary(min_size=16, max_size=16)
digest = st.binary(min_size=32, max_size=32)
half = st.floats(-65504.0, 65504.0, width=16)
drafting = st.builds(Drafting, st.integers(0, 255), f32, u16, u16, f32, f32, st.booleans(), f32, u32, f32, u64)
numbers = st.one_of(st.integers(0, 300), st.integers(0, (1 << 32) - 100))


@st.composite
def drafts(draw):
    """Of trees as a worker numbers them: parents before children, near or far."""
    first, made = draw(numbers), []
    for number in range(first, first + draw(st.integers(0, 12))):
        far = draw(st.integers(1, number)) if number else 0
        parent = draw(st.sampled_from([ROOT, number - min(1 + far % 50, number), number - far])) if number else ROOT
        made.append(DraftNode(parent, draw(st.one_of(u16, u32)), draw(half)))
    return Drafts(draw(u32), draw(u32), draw(u32), draw(u64), first, draw(u32), tuple(made))


message = st.one_of(
    st.builds(Hello, uuid, u32, digest, text, text),
    st.builds(Welcome, uuid, u32, digest, text, u32, u32),
    st.builds(Refuse, st.sampled_from(RefuseCode), text),
    st.builds(Open, u32, u32, tokens, u64, drafting, text, u32, u32, u64),
    st.builds(Commit, u32, u32, u32, u64, tokens),
    st.builds(Close, u32, u32),
    drafts(),
    st.builds(PassReport, f32, f32, u16, u16, u16),
    st.builds(Prefilled, u32, u32, u32, u32),
    st.builds(Lost, u32, u32, st.sampled_from(LostCode), u32),
)
frames = st.builds(
    Frame, st.builds(Header, u64, u32, u64, u64, u64, st.booleans()), st.lists(message, max_size=5).map(tuple)
)

ONE_OF_EACH = Frame(
    Header(1, 2, 3, 4, 5, True),
    (
        Hello(b"i" * 16, 9, b"h" * 32, "draft", "token"),
        Welcome(b"i" * 16, 9, b"h" * 32, "draft", 8, 512),
        Refuse(RefuseCode.TOKENIZER, "not that one"),
        Open(1, 1, (1, 2, 3), 77, Drafting(), "00-trace", 5, 9, 76),
        Commit(1, 1, 3, 78, (4, 5)),
        Close(1, 1),
        Drafts(1, 1, 3, 78, 0, 1, (DraftNode(0xFFFFFFFF, 4, -0.5), DraftNode(0, 5, -1.0))),
        PassReport(7.5, 0.5, 4, 1),
        Prefilled(1, 1, 17, 3),
        Lost(1, 1, LostCode.GAP, 3),
    ),
)


@given(frames)
@settings(deadline=None)
def test_round_trip(frame):
    data = encode(frame)
    assert decode(data) == frame
    assert decode(memoryview(data)) == frame
    assert len(data) == wire._HEADER.size + sum(message_bytes(m) for m in frame.messages)


def test_one_of_each_is_every_message():
    assert {type(m) for m in ONE_OF_EACH.messages} == set(codecs.TYPES)
    assert decode(encode(ONE_OF_EACH)) == ONE_OF_EACH


def test_every_truncation_is_refused():
    data = encode(ONE_OF_EACH)
    for size in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(data[:size])
    with pytest.raises(ProtocolError, match="1 bytes after the last message"):
        decode(data + b"x")


def test_every_bit_flip_is_refused_or_a_valid_frame():
    data = bytearray(encode(ONE_OF_EACH))
    valid = 0
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        try:
            frame = decode(bytes(data))
        except ProtocolError:
            pass
        else:
            valid += 1
            assert isinstance(frame, Frame)
        data[bit // 8] ^= 1 << bit % 8
    assert 0 < valid < 8 * len(data)


def test_nodes_are_numbered_below_the_root():
    good = Drafts(1, 1, 3, 7, 0xFFFFFFFD, 1, (make_node((0xFFFFFFFF, 5, -0.5)), make_node((0xFFFFFFFD, 6, -0.5))))
    data = encode(Frame(Header(1, 1, 1), (good,)))
    assert decode(data).messages == (good,)
    bad = data.replace((0xFFFFFFFD).to_bytes(4, "little"), (0xFFFFFFFF).to_bytes(4, "little"))
    assert bad != data
    with pytest.raises(ProtocolError, match="2 nodes from number 4294967295 on"):
        decode(bad)


@given(st.binary(max_size=200), st.integers(1, 10), st.integers(0, 3))
def test_garbage_after_a_right_header_is_never_another_error(body, kind, count):
    header = wire._HEADER.pack(b"WS", 1, 0, count, 1, 1, 1, 0, 0)
    for data in (body, header + body, header + wire._PREFIX.pack(kind, len(body)) + body):
        with contextlib.suppress(ProtocolError):
            decode(data)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ((0, b"XX"), "magic"),
        ((2, b"\x01"), "version: the peer speaks 1, this side speaks 3"),
        ((wire._HEADER.size, b"\x63"), "message type: 99 is unknown"),
    ],
)
def test_errors_say_what_is_wrong(change, match):
    data = bytearray(encode(Frame(Header(1, 1, 1), (Close(1, 1),))))
    offset, raw = change
    data[offset : offset + len(raw)] = raw
    with pytest.raises(ProtocolError, match=match):
        decode(bytes(data))


@pytest.mark.parametrize(
    "bad",
    [
        Hello(b"short", 9, b"h" * 32),
        Hello(b"i" * 16, 9, b"h"),
        Welcome(b"i" * 16, 9, b"h", "", 1, 1),
        Hello(b"i" * 16, -1, b"h" * 32),
        Close(1 << 32, 1),
        Close(-1, 1),
        Refuse(RefuseCode.BUSY, "x" * 70_000),
        Refuse(RefuseCode.BUSY, "\ud800"),
        Commit(1, 1, 1, 1, (1 << 32,)),
        Commit(1, 1, 1, 1, tuple(range(65_536))),
        PassReport(1e39, 0.0, 1, 1),
        Drafts(1, 1, 1, 1, 1, 1, (DraftNode(-1, 1, 0.0),)),
        Drafts(1, 1, 1, 1, 1, 1, (DraftNode(1, 1, 0.0),)),
        Drafts(1, 1, 1, 1, 1, 1, (DraftNode(0, 1, 1e9),)),
        Drafts(1, 1, 1, 1, 1, 1, (DraftNode(0, 1 << 32, 0.0),)),
    ],
)
def test_what_does_not_fit_is_refused_by_the_encoder(bad):
    with pytest.raises(ProtocolError):
        encode(Frame(Header(1, 1, 1), (bad,)))


def test_frame_size_limit_both_ways():
    big = Open(1, 1, (7,) * (MAX_FRAME_BYTES // 4), 1)
    with pytest.raises(ProtocolError, match=f"the limit is {MAX_FRAME_BYTES}"):
        encode(Frame(Header(1, 1, 1), (big,)))
    with pytest.raises(ProtocolError, match=f"the limit is {MAX_FRAME_BYTES}"):
        decode(bytes(MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize(
    ("far", "token", "size"),
    [(255, 65_535, 5), (256, 65_535, 6), (255, 65_536, 6), (65_536, 1 << 24, 10), (1, (1 << 24) - 1, 6)],
)
def test_nodes_take_no_more_bytes_than_their_numbers_need(far, token, size):
    first = 70_000
    made = Drafts(1, 1, 1, 1, first, 1, (DraftNode(ROOT, 7, -1.0), DraftNode(first + 1 - far, token, -0.5)))
    empty = Drafts(1, 1, 1, 1, first, 1, ())
    assert message_bytes(made) - message_bytes(empty) == 2 * size
    assert decode(encode(Frame(Header(1, 1, 1), (made, empty)))).messages == (made, empty)


def test_nodes_of_no_known_layout_or_before_the_first_are_refused():
    data = bytearray(encode(Frame(Header(1, 1, 1), (Drafts(1, 1, 1, 1, 1, 1, (DraftNode(0, 7, -1.0),)),))))
    layout = wire._HEADER.size + wire._PREFIX.size + codecs._DRAFTS.size
    data[layout + 1] = 2
    with pytest.raises(ProtocolError, match="before the first node"):
        decode(bytes(data))
    data[layout] = 3
    with pytest.raises(ProtocolError, match="layout of nodes 3 is unknown"):
        decode(bytes(data))


def test_log_probabilities_travel_in_two_bytes():
    sent = (-0.123456, -1e9, -math.inf, math.nan)
    frame = Frame(Header(1, 1, 1), (Drafts(1, 1, 1, 1, 1, 1, tuple(DraftNode(0, 1, p) for p in sent)),))
    got = [n.log_prob for n in decode(encode(frame)).messages[0].nodes]
    assert got[0] == struct.unpack("<e", struct.pack("<e", sent[0]))[0] != sent[0]
    assert got[1:3] == [-65504.0, -65504.0]
    assert math.isnan(got[3])


@given(st.lists(st.builds(Commit, u32, u32, u32, u64, tokens), max_size=30), st.integers(1, 400))
def test_split_keeps_order_and_size(messages, limit):
    groups = list(split(messages, limit))
    assert [m for g in groups for m in g] == messages
    assert all(len(g) == 1 or sum(message_bytes(m) for m in g) <= limit for g in groups)
    for before, after in itertools.pairwise(groups):
        assert sum(message_bytes(m) for m in (*before, after[0])) > limit


@given(message)
def test_no_message_is_larger_than_its_count_says(one):
    assert codecs.message_size(one) == len(codecs.ENCODERS[type(one)](one)) <= codecs.largest_size(one)


def test_split_measures_what_its_count_does_not_settle():
    nodes = tuple(DraftNode(ROOT, 7, -1.0) for _ in range(10))
    pair = [Drafts(number, 1, 1, 1, 1, 1, nodes) for number in (1, 2)]
    exactly = sum(map(message_bytes, pair))
    assert exactly < sum(map(codecs.largest_size, pair))
    assert list(split(pair, exactly)) == [tuple(pair)]
    assert list(split(pair, exactly - 1)) == [(pair[0],), (pair[1],)]


def test_split_keeps_the_count_of_messages_encodable():
    groups = list(split([Close(1, 1)] * 70_000))
    assert [len(g) for g in groups] == [65_535, 4_465]
    assert len(decode(encode(Frame(Header(1, 1, 1), groups[0]))).messages) == 65_535
