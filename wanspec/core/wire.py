"""Encoder and decoder of frames: packed little-endian structs, protocol version 3 (`docs/protocol.md`)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from wanspec.core.codecs import DECODERS, ENCODERS, TYPES, largest_size, message_size
from wanspec.core.messages import PROTOCOL_VERSION, Frame, Header, Message, make
from wanspec.errors import ProtocolError

MAX_FRAME_BYTES = 8 << 20
SPLIT_BYTES = 1 << 20
"""What one tick sends is split into frames of about this size."""
MAGIC = b"WS"
_WANT_REPLY = 1
_MAX_MESSAGES = 0xFFFF

_HEADER = struct.Struct("<2sBBHIQQQQ")
_PREFIX = struct.Struct("<BI")


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
            body = ENCODERS[type(message)](message)
            parts += (_PREFIX.pack(TYPES[type(message)], len(body)), body)
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
    while len(messages) < count:
        try:
            kind, length = _PREFIX.unpack_from(data, offset)
        except struct.error as error:
            raise ProtocolError(f"message at byte {offset}: cut short") from error
        start = offset + _PREFIX.size
        offset = start + length
        messages.append(_decode_message(kind, length, bytes(data[start:offset])))
    if offset != len(data):
        raise ProtocolError(f"frame: {len(data) - offset} bytes after the last message")
    header = make(Header, (sender, number, sent, echo, received, flags & _WANT_REPLY != 0))
    return make(Frame, (header, tuple(messages)))


def read(data: bytes) -> Frame | ProtocolError:
    """Decode a frame; return what :func:`decode` would raise."""
    try:
        return decode(data)
    except ProtocolError as error:
        return error


def sender_of(data: bytes) -> int | None:
    """Return who a frame says it is from, without decoding it; None for what is no frame."""
    return _HEADER.unpack_from(data)[5] if len(data) >= _HEADER.size else None


def message_bytes(message: Message) -> int:
    """Return the size of a message inside a frame, in bytes."""
    return _PREFIX.size + message_size(message)


def split(messages: Sequence[Message], limit: int = SPLIT_BYTES) -> Iterator[tuple[Message, ...]]:
    """Split messages into groups of at most ``limit`` bytes, in order; a message larger than that goes alone."""
    if len(messages) <= _MAX_MESSAGES and sum(map(largest_size, messages)) + _PREFIX.size * len(messages) <= limit:
        if messages:
            yield tuple(messages)
        return
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


def _decode_message(kind: int, length: int, body: bytes) -> Message:
    decoder = DECODERS.get(kind)
    if decoder is None:
        raise ProtocolError(f"message type: {kind} is unknown")
    if len(body) != length:
        raise ProtocolError(f"message type {kind}: {len(body)} of {length} bytes")
    try:
        return decoder(body)
    except (struct.error, ValueError, IndexError) as error:
        raise ProtocolError(f"message type {kind}: {error}") from error
