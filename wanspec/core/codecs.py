"""Encoders and decoders of single messages: packed little-endian structs (`docs/protocol.md`).

Encoders raise ``struct.error``, ``OverflowError``, ``UnicodeEncodeError`` or ProtocolError where a value does not fit
its field; decoders ``struct.error``, ``ValueError`` or ``IndexError`` where a body is not what an encoder writes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from operator import sub
from typing import Any, TypeVar

from wanspec.core.messages import (
    ROOT,
    Close,
    Commit,
    Drafting,
    Drafts,
    Hello,
    Lost,
    LostCode,
    Message,
    Open,
    PassReport,
    Prefilled,
    Refuse,
    RefuseCode,
    Welcome,
    make,
    make_node,
)
from wanspec.errors import ProtocolError

_HELLO = struct.Struct("<16sI32s")
_WELCOME = struct.Struct("<16sI32sII")
_REFUSE = struct.Struct("<H")
_OPEN = struct.Struct("<IIQBfHHff?fIfQIIQI")
_COMMIT = struct.Struct("<IIIQH")
_CLOSE = struct.Struct("<II")
_DRAFTS = struct.Struct("<IIIQIIH")
_PASS = struct.Struct("<ffHHH")
_PREFILLED = struct.Struct("<IIII")
_LOST = struct.Struct("<IIBI")
_LENGTH = struct.Struct("<H")
_LAYOUT = struct.Struct("<B")
_PARENT_COLUMNS = (("B", 1, 0xFF), ("H", 2, 0xFFFF), ("I", 4, 0xFFFFFFFF))
"""Format, bytes and most of a column of distances to parents, by its number in the layout byte."""
_TOKEN_COLUMNS = (("H", 2, 0xFFFF), ("HB", 3, 0xFFFFFF), ("I", 4, 0xFFFFFFFF))
"""The same of token ids: those of 3 bytes are a column of the lower two and one of the highest."""
_LOG_PROB_BYTES = 2
_LARGEST_NODE_BYTES = _PARENT_COLUMNS[-1][1] + _TOKEN_COLUMNS[-1][1] + _LOG_PROB_BYTES
_LOWEST_LOG_PROB = -65_504.0  # of a 2-byte float; what lies below travels as this

_E = TypeVar("_E", RefuseCode, LostCode)


def message_size(message: Message) -> int:
    """Return the size of an encoded message in bytes. Those sent every round are not encoded for it."""
    if isinstance(message, Drafts):
        return _drafts_size(message)
    if isinstance(message, PassReport):
        return _PASS.size
    if isinstance(message, Commit):
        return _COMMIT.size + 4 * len(message.tokens)
    if isinstance(message, Open):
        return _OPEN.size + _LENGTH.size + len(message.traceparent.encode()) + 4 * len(message.tokens)
    return len(ENCODERS[type(message)](message))


def largest_size(message: Message) -> int:
    """Return what the size of an encoded message is at most; of drafts without a look at their nodes."""
    if isinstance(message, Drafts):
        return _DRAFTS.size + _LAYOUT.size + _LARGEST_NODE_BYTES * len(message.nodes)
    return message_size(message)


def _text(value: str) -> bytes:
    raw = value.encode()
    return _LENGTH.pack(len(raw)) + raw


def _texts(body: bytes, offset: int, count: int) -> list[str]:
    values = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(body, offset)
        offset += _LENGTH.size
        if offset + length > len(body):
            raise ValueError("text cut short")
        values.append(body[offset : offset + length].decode())
        offset += length
    _end(body, offset)
    return values


def _end(body: bytes, offset: int) -> None:
    if offset != len(body):
        raise ValueError(f"{len(body) - offset} bytes too many")


def _tokens(tokens: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(tokens)}I", *tokens)


def _read_tokens(body: bytes, offset: int, count: int) -> tuple[int, ...]:
    if offset + 4 * count != len(body):
        raise ValueError(f"{count} tokens announced, {len(body) - offset} bytes present")
    return struct.unpack_from(f"<{count}I", body, offset)


def _code(kind: type[_E], value: int) -> _E:
    return kind(value)


def _encode_hello(m: Hello) -> bytes:
    _exact("instance", m.instance, 16)
    _exact("tokenizer_hash", m.tokenizer_hash, 32)
    return _HELLO.pack(m.instance, m.vocab_size, m.tokenizer_hash) + _text(m.draft_id) + _text(m.token)


def _decode_hello(body: bytes) -> Hello:
    fields = _HELLO.unpack_from(body)
    return Hello(*fields, *_texts(body, _HELLO.size, 2))


def _encode_welcome(m: Welcome) -> bytes:
    _exact("instance", m.instance, 16)
    _exact("tokenizer_hash", m.tokenizer_hash, 32)
    return _WELCOME.pack(m.instance, m.vocab_size, m.tokenizer_hash, m.max_sequences, m.context) + _text(m.draft_id)


def _decode_welcome(body: bytes) -> Welcome:
    instance, vocab, digest, sequences, context = _WELCOME.unpack_from(body)
    (draft_id,) = _texts(body, _WELCOME.size, 1)
    return Welcome(instance, vocab, digest, draft_id, sequences, context)


def _encode_refuse(m: Refuse) -> bytes:
    return _REFUSE.pack(m.code) + _text(m.reason)


def _decode_refuse(body: bytes) -> Refuse:
    (code,) = _REFUSE.unpack_from(body)
    return Refuse(_code(RefuseCode, code), _texts(body, _REFUSE.size, 1)[0])


def _encode_open(m: Open) -> bytes:
    d = m.drafting
    fixed = _OPEN.pack(
        m.sequence,
        m.epoch,
        m.hash,
        d.branching,
        d.theta,
        d.width,
        d.max_depth,
        d.floor,
        d.keep,
        d.calibrated,
        d.temperature,
        d.top_k,
        d.top_p,
        d.seed,
        m.following,
        m.prefix_length,
        m.prefix_hash,
        len(m.tokens),
    )
    return fixed + _text(m.traceparent) + _tokens(m.tokens)


def _decode_open(body: bytes) -> Open:
    sequence, epoch, digest, *drafts_by, following, known, known_hash, count = _OPEN.unpack_from(body)
    (length,) = _LENGTH.unpack_from(body, _OPEN.size)
    end = _OPEN.size + _LENGTH.size + length
    (traceparent,) = _texts(body[:end], _OPEN.size, 1)
    drafting = Drafting(*drafts_by)
    tokens = _read_tokens(body, end, count)
    return Open(sequence, epoch, tokens, digest, drafting, traceparent, following, known, known_hash)


def _encode_commit(m: Commit) -> bytes:
    return _COMMIT.pack(m.sequence, m.epoch, m.from_length, m.hash, len(m.tokens)) + _tokens(m.tokens)


def _decode_commit(body: bytes) -> Commit:
    sequence, epoch, from_length, digest, count = _COMMIT.unpack_from(body)
    return Commit(sequence, epoch, from_length, digest, _read_tokens(body, _COMMIT.size, count))


def _encode_close(m: Close) -> bytes:
    return _CLOSE.pack(m.sequence, m.epoch)


def _decode_close(body: bytes) -> Close:
    _end(body, _CLOSE.size)
    return Close(*_CLOSE.unpack(body))


def _encode_drafts(m: Drafts) -> bytes:
    fixed = _DRAFTS.pack(m.sequence, m.epoch, m.length, m.hash, m.first, m.passes, len(m.nodes))
    if not m.nodes:
        return fixed + _LAYOUT.pack(0)
    parents, tokens, log_probs = zip(*m.nodes, strict=True)
    distances = _distances(m.first, parents)
    by_parent, by_token = _fitting(_PARENT_COLUMNS, max(distances)), _fitting(_TOKEN_COLUMNS, max(tokens))
    columns = (*(t & 0xFFFF for t in tokens), *(t >> 16 for t in tokens)) if by_token == 1 else tokens
    lowest = _LOWEST_LOG_PROB
    floored = log_probs if min(log_probs) >= lowest else [lowest if p < lowest else p for p in log_probs]
    layout = _LAYOUT.pack(by_parent | by_token << 2)
    return fixed + layout + _nodes_struct(len(m.nodes), by_parent, by_token).pack(*distances, *columns, *floored)


def _decode_drafts(body: bytes) -> Drafts:
    sequence, epoch, length, digest, first, passes, count = _DRAFTS.unpack_from(body)
    (layout,) = _LAYOUT.unpack_from(body, _DRAFTS.size)
    by_parent, by_token = layout & 3, layout >> 2
    if by_parent >= len(_PARENT_COLUMNS) or by_token >= len(_TOKEN_COLUMNS):
        raise ValueError(f"layout of nodes {layout} is unknown")
    packed = _nodes_struct(count, by_parent, by_token)
    start = _DRAFTS.size + _LAYOUT.size
    if start + packed.size != len(body):
        raise ValueError(f"{count} nodes announced, {len(body) - start} bytes present")
    if first + count > ROOT:
        raise ValueError(f"{count} nodes from number {first} on")
    if not count:
        return Drafts(sequence, epoch, length, digest, first, passes, ())
    values = packed.unpack_from(body, start)
    distances, tokens, log_probs = values[:count], values[count : 2 * count], values[-count:]
    if by_token == 1:
        tokens = tuple(low | high << 16 for low, high in zip(tokens, values[2 * count : 3 * count], strict=True))
    parents = list(map(sub, range(first, first + count), distances))
    if min(parents) < 0:
        raise ValueError("a parent before the first node")
    if not min(distances):
        parents = [parent if distance else ROOT for parent, distance in zip(parents, distances, strict=True)]
    nodes = tuple(map(make_node, zip(parents, tokens, log_probs, strict=True)))
    return make(Drafts, (sequence, epoch, length, digest, first, passes, nodes))


def _distances(first: int, parents: tuple[int, ...]) -> list[int]:
    """How far before each node its parent is; 0 for the committed prefix."""
    distances = [d if d > 0 else 0 for d in map(sub, range(first, first + len(parents)), parents)]
    if min(parents) < 0 or distances.count(0) != parents.count(ROOT):
        raise ProtocolError("parent: not a node before its child")
    return distances


def _drafts_size(m: Drafts) -> int:
    size = _DRAFTS.size + _LAYOUT.size
    if not m.nodes:
        return size
    parents, tokens, _ = zip(*m.nodes, strict=True)
    by_parent = _fitting(_PARENT_COLUMNS, max(map(sub, range(m.first, m.first + len(parents)), parents)))
    by_token = _fitting(_TOKEN_COLUMNS, max(tokens))
    return size + len(parents) * (_PARENT_COLUMNS[by_parent][1] + _TOKEN_COLUMNS[by_token][1] + _LOG_PROB_BYTES)


def _fitting(columns: tuple[tuple[str, int, int], ...], largest: int) -> int:
    """The first column that holds a value."""
    number = 0
    while number < len(columns) - 1 and largest > columns[number][2]:
        number += 1
    return number


@lru_cache(maxsize=1024)
def _nodes_struct(count: int, by_parent: int, by_token: int) -> struct.Struct:
    formats = [*_PARENT_COLUMNS[by_parent][0], *_TOKEN_COLUMNS[by_token][0], "e"]
    return struct.Struct("<" + "".join(f"{count}{each}" for each in formats))


def _encode_pass(m: PassReport) -> bytes:
    return _PASS.pack(m.pass_ms, m.queue_ms, m.leaves, m.sequences, m.prefills)


def _decode_pass(body: bytes) -> PassReport:
    _end(body, _PASS.size)
    return make(PassReport, _PASS.unpack(body))


def _encode_prefilled(m: Prefilled) -> bytes:
    return _PREFILLED.pack(m.sequence, m.epoch, m.length, m.computed)


def _decode_prefilled(body: bytes) -> Prefilled:
    _end(body, _PREFILLED.size)
    return Prefilled(*_PREFILLED.unpack(body))


def _encode_lost(m: Lost) -> bytes:
    return _LOST.pack(m.sequence, m.epoch, m.code, m.length)


def _decode_lost(body: bytes) -> Lost:
    _end(body, _LOST.size)
    sequence, epoch, code, length = _LOST.unpack(body)
    return Lost(sequence, epoch, _code(LostCode, code), length)


def _exact(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ProtocolError(f"{name}: {len(value)} bytes, expected {size}")


_CODECS: tuple[tuple[int, type, Callable[[Any], bytes], Callable[[bytes], Message]], ...] = (
    (1, Hello, _encode_hello, _decode_hello),
    (2, Welcome, _encode_welcome, _decode_welcome),
    (3, Refuse, _encode_refuse, _decode_refuse),
    (4, Open, _encode_open, _decode_open),
    (5, Commit, _encode_commit, _decode_commit),
    (6, Close, _encode_close, _decode_close),
    (7, Drafts, _encode_drafts, _decode_drafts),
    (8, PassReport, _encode_pass, _decode_pass),
    (9, Lost, _encode_lost, _decode_lost),
    (10, Prefilled, _encode_prefilled, _decode_prefilled),
)
TYPES = {kind: number for number, kind, _, _ in _CODECS}
ENCODERS = {kind: encoder for _, kind, encoder, _ in _CODECS}
DECODERS = {number: decoder for number, _, _, decoder in _CODECS}
