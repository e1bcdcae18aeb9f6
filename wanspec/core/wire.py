"""Encoder and decoder of frames: packed little-endian structs, protocol version 2 (`docs/protocol.md`)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from wanspec.core.messages import (
    PROTOCOL_VERSION,
    Close,
    Commit,
    Drafting,
    Drafts,
    Frame,
    Header,
    Hello,
    Lost,
    LostCode,
    Message,
    Open,
    PassReport,
    Refuse,
    RefuseCode,
    Welcome,
    make_node,
)
from wanspec.errors import ProtocolError

MAX_FRAME_BYTES = 8 << 20
SPLIT_BYTES = 1 << 20
"""What one tick sends is split into frames of about this size."""
MAGIC = b"WS"
_WANT_REPLY = 1
_MAX_MESSAGES = 0xFFFF

_HEADER = struct.Struct("<2sBBHIQQQQ")
_PREFIX = struct.Struct("<BI")
_HELLO = struct.Struct("<16sI32s")
_WELCOME = struct.Struct("<16sI32sII")
_REFUSE = struct.Struct("<H")
_OPEN = struct.Struct("<IIQBfHHff?fIfQI")
_COMMIT = struct.Struct("<IIIQH")
_CLOSE = struct.Struct("<II")
_DRAFTS = struct.Struct("<IIIQIIH")
_PASS = struct.Struct("<ffHHH")
_LOST = struct.Struct("<IIBI")
_LENGTH = struct.Struct("<H")
_NODE = struct.Struct("<IIe")
_LOWEST_LOG_PROB = -65_504.0  # of a 2-byte float; what lies below travels as this

_E = TypeVar("_E", RefuseCode, LostCode)


def encode(frame: Frame) -> bytes:
    """Encode a frame.

    Raises:
        ProtocolError: a value does not fit its field, or the frame passes ``MAX_FRAME_BYTES``.
    """
    header = frame.header
    try:
        parts = [
            _HEADER.pack(
                MAGIC,
                PROTOCOL_VERSION,
                _WANT_REPLY if header.want_reply else 0,
                len(frame.messages),
                header.number & 0xFFFFFFFF,
                header.sender,
                header.sent,
                header.echo,
                header.echo_received,
            )
        ]
        for message in frame.messages:
            body = _ENCODERS[type(message)](message)
            parts += (_PREFIX.pack(_TYPES[type(message)], len(body)), body)
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise ProtocolError(f"cannot encode: {error}") from error
    data = b"".join(parts)
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"frame: {len(data)} bytes, the limit is {MAX_FRAME_BYTES}")
    return data


def decode(data: bytes | memoryview) -> Frame:
    """Decode a frame. Flags that this version does not know are ignored.

    Raises:
        ProtocolError: anything else that :func:`encode` would not have written.
    """
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError(f"frame: {len(data)} bytes, the limit is {MAX_FRAME_BYTES}")
    try:
        magic, version, flags, count, number, sender, sent, echo, received = _HEADER.unpack_from(data)
    except struct.error as error:
        raise ProtocolError(f"frame: {len(data)} bytes, a header takes {_HEADER.size}") from error
    if magic != MAGIC:
        raise ProtocolError(f"magic: {bytes(magic)!r}, expected {MAGIC!r}")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"version: the peer speaks {version}, this side speaks {PROTOCOL_VERSION}")
    messages: list[Message] = []
    offset = _HEADER.size
    for _ in range(count):
        message, offset = _decode_message(data, offset)
        messages.append(message)
    if offset != len(data):
        raise ProtocolError(f"frame: {len(data) - offset} bytes after the last message")
    header = Header(sender, number, sent, echo, received, bool(flags & _WANT_REPLY))
    return Frame(header, tuple(messages))


def sender_of(data: bytes) -> int | None:
    """Return who a frame says it is from, without decoding it; None for what is no frame."""
    return _HEADER.unpack_from(data)[5] if len(data) >= _HEADER.size else None


def message_bytes(message: Message) -> int:
    """Return the size of a message inside a frame, in bytes. Those sent every round are not encoded for it."""
    if isinstance(message, Drafts):
        return _PREFIX.size + _DRAFTS.size + _NODE.size * len(message.nodes)
    if isinstance(message, Commit):
        return _PREFIX.size + _COMMIT.size + 4 * len(message.tokens)
    if isinstance(message, Open):
        text = _LENGTH.size + len(message.traceparent.encode())
        return _PREFIX.size + _OPEN.size + text + 4 * len(message.tokens)
    return _PREFIX.size + len(_ENCODERS[type(message)](message))


def split(messages: Sequence[Message], limit: int = SPLIT_BYTES) -> Iterator[tuple[Message, ...]]:
    """Split messages into groups of at most ``limit`` bytes, in order; a message larger than that goes alone."""
    group: list[Message] = []
    size = 0
    for message in messages:
        more = message_bytes(message)
        if group and (size + more > limit or len(group) == _MAX_MESSAGES):
            yield tuple(group)
            group, size = [], 0
        group.append(message)
        size += more
    if group:
        yield tuple(group)


def _decode_message(data: bytes | memoryview, offset: int) -> tuple[Message, int]:
    try:
        kind, length = _PREFIX.unpack_from(data, offset)
    except struct.error as error:
        raise ProtocolError(f"message at byte {offset}: cut short") from error
    start = offset + _PREFIX.size
    body = bytes(data[start : start + length])
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"message type: {kind} is unknown")
    if len(body) != length:
        raise ProtocolError(f"message type {kind}: {len(body)} of {length} bytes")
    try:
        return decoder(body), start + length
    except (struct.error, ValueError, IndexError) as error:
        raise ProtocolError(f"message type {kind}: {error}") from error


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
        len(m.tokens),
    )
    return fixed + _text(m.traceparent) + _tokens(m.tokens)


def _decode_open(body: bytes) -> Open:
    sequence, epoch, digest, *drafts_by, count = _OPEN.unpack_from(body)
    (length,) = _LENGTH.unpack_from(body, _OPEN.size)
    end = _OPEN.size + _LENGTH.size + length
    (traceparent,) = _texts(body[:end], _OPEN.size, 1)
    drafting = Drafting(*drafts_by)
    return Open(sequence, epoch, _read_tokens(body, end, count), digest, drafting, traceparent)


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
    pack = _NODE.pack
    try:
        nodes = [pack(*node) for node in m.nodes]
    except OverflowError:
        nodes = [pack(parent, token, max(log_prob, _LOWEST_LOG_PROB)) for parent, token, log_prob in m.nodes]
    return b"".join((fixed, *nodes))


def _decode_drafts(body: bytes) -> Drafts:
    sequence, epoch, length, digest, first, passes, count = _DRAFTS.unpack_from(body)
    if _DRAFTS.size + count * _NODE.size != len(body):
        raise ValueError(f"{count} nodes announced, {len(body) - _DRAFTS.size} bytes present")
    nodes = tuple(map(make_node, _NODE.iter_unpack(body[_DRAFTS.size :])))
    return Drafts(sequence, epoch, length, digest, first, passes, nodes)


def _encode_pass(m: PassReport) -> bytes:
    return _PASS.pack(m.pass_ms, m.queue_ms, m.leaves, m.sequences, m.prefills)


def _decode_pass(body: bytes) -> PassReport:
    _end(body, _PASS.size)
    return PassReport(*_PASS.unpack(body))


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
)
_TYPES = {kind: number for number, kind, _, _ in _CODECS}
_ENCODERS = {kind: encoder for _, kind, encoder, _ in _CODECS}
_DECODERS = {number: decoder for number, _, _, decoder in _CODECS}
