"""Numbers and fields as protobuf writes them (its encoding, "Base 128 Varints"), for messages made or read by hand."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 begin and end a group

_MAX_BYTES = 10


def write_varint(number: int) -> bytes:
    """Return a number of at least 0 as it is written."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(payload: bytes | memoryview, position: int) -> tuple[int, int]:
    """Read a number, and return it and where it ends; the message need not have been parsed.

    Raises:
        IndexError: The message ends within it, or it goes on after the ten bytes that one may have.
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
    """Go through the fields of a message: the number of each, its wire type, and where its contents stand.

    Marks of groups count as fields without contents.

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
