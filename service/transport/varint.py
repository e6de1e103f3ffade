"""Numbers as protobuf writes them (its encoding, "Base 128 Varints"), for messages put together or read by hand."""

from __future__ import annotations

_MAX_BYTES = 10


def write_varint(number: int) -> bytes:
    """Return a number of at least 0 as it is written."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(payload: bytes, position: int) -> tuple[int, int]:
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
