"""The character vectors in an R package's data file (.rdb), without R."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_CHARACTER_VECTOR, _STRING = 16, 9
_HEADERS = {2: 14, 3: 14}


def character_vectors(path: Path) -> Iterator[list[str]]:
    """Yield every character vector stored in ``path``, in file order; other objects are skipped."""
    rest = path.read_bytes()
    while rest:
        content, rest = _block(rest)
        vector = _strings(content)
        if vector:
            yield vector


def _block(data: bytes) -> tuple[bytes, bytes]:
    # A block is its uncompressed size (4 bytes, big endian), a letter for the method unless it is zlib, and the stream.
    method = data[4:5]
    if method == b"Z":
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
        stream = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=filters)
        return stream.decompress(data[5:]), stream.unused_data
    if method == b"2":
        packed = bz2.BZ2Decompressor()
        return packed.decompress(data[5:]), packed.unused_data
    inflate = zlib.decompressobj()
    return inflate.decompress(data[4:]), inflate.unused_data


def _strings(content: bytes) -> list[str]:
    # R's XDR serialisation: "X\n", version and two R versions, from version 3 on the native encoding; then the object.
    if content[:2] != b"X\n":
        return []
    (version,) = struct.unpack(">i", content[2:6])
    offset = _HEADERS[version]
    if version == 3:
        (length,) = struct.unpack(">i", content[offset : offset + 4])
        offset += 4 + length
    flags, count = struct.unpack(">ii", content[offset : offset + 8])
    offset += 8
    if flags & 0xFF != _CHARACTER_VECTOR:
        return []
    strings = []
    for _ in range(count):
        flags, length = struct.unpack(">ii", content[offset : offset + 8])
        if flags & 0xFF != _STRING:
            return []
        offset += 8
        strings.append(content[offset : offset + max(length, 0)].decode("utf-8", errors="replace"))
        offset += max(length, 0)
    return strings
