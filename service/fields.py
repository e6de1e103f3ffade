"""Reads and writes protobuf by hand: numbers and fields (protobuf encoding, "Base 128 Varints")."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 begin and end a group

_MAX_BYTES = 10


def write_varint(number: int) -> bytes:
    """Encode a number of at least 0."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(payload: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it; the message may be damaged.

    Raises:
        IndexError: The message ends within the number, or the number has more than ten bytes.
    """
    number = shift = 0
    while shift < 7 * _MAX_BYTES:
        byte = payload[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise IndexError


def fields(payload: bytes | memoryview) -> Iterator[tuple[int, int, slice]]:
    """Yield each field of a message: its number, its wire type, and the place of its contents.

    The marks of groups count as fields without contents.

    Raises:
        IndexError: The message is damaged.
    """
    position = 0
    while position < len(payload):
        tag, position = read_varint(payload, position)
        kind, size = tag & 7, 0
        if kind == DELIMITED:
            size, position = read_varint(payload, position)
        elif kind == VARINT:
            size = read_varint(payload, position)[1] - position
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        yield tag >> 3, kind, slice(position, position + size)
        position += size
