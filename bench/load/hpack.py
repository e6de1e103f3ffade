"""The two pieces of HPACK (RFC 7541) that a load generator needs: to write one block, and to find the gRPC status.

The connection allows the server no dynamic table, so every block stands for itself and equal blocks mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator

UNKNOWN = 2
UNAVAILABLE = 14
_STATIC = 61  # entries of the static table; an index beyond it would be of the dynamic one
_STATUS_200 = 8
_STATUSES = range(8, 15)  # static entries with a value of ``:status``
_NAME = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))  # plain, and in the Huffman code
_DIGITS = dict(enumerate(("07", "0f", "17", "67", "6b", "6f", "73", "77", "7b", "7f")))
_TEENS = dict(enumerate(("083f", "087f", "08bf", "0b3f", "0b5f", "0b7f", "0b9f"), start=10))
_CODES = {str(code).encode(): code for code in range(17)} | {
    bytes.fromhex(huffman): code for code, huffman in (_DIGITS | _TEENS).items()
}


class HeadersInvalid(Exception):
    """A header block is not what the connection allows."""


def literal(name: bytes, value: bytes) -> bytes:
    """Write a field that is not to be indexed, without the Huffman code."""
    return b"\x00" + _string(name) + _string(value)


def request_block(authority: str, path: str) -> bytes:
    """Write the fields that all requests of a gRPC method share."""
    return b"".join(
        (
            b"\x83\x86",  # static entries: :method POST, :scheme http
            b"\x04" + _string(path.encode()),
            b"\x01" + _string(authority.encode()),
            literal(b"te", b"trailers"),
            literal(b"content-type", b"application/grpc"),
            literal(b"user-agent", b"convserve-bench"),
        )
    )


def grpc_status(block: bytes) -> int:
    """Return the code that a block of trailers tells; as gRPC has it, UNKNOWN or UNAVAILABLE where it tells none.

    Raises:
        HeadersInvalid: The block cannot be read.
    """
    code, http_ok = None, True
    try:
        for name, value in _fields(block):
            if value is not None and name in _NAME:
                code = _CODES.get(value, UNKNOWN)
            elif isinstance(name, int) and name in _STATUSES and value is None:
                http_ok = name == _STATUS_200
    except IndexError:
        raise HeadersInvalid("a header block ends too early") from None
    if code is not None:
        return code
    return UNKNOWN if http_ok else UNAVAILABLE


def _fields(block: bytes) -> Iterator[tuple[bytes | int, bytes | None]]:
    """Yield names and values as they are written; a static entry as its index, its value as None."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            yield _checked(index), None
        elif first & 0xE0 == 0x20:  # a change of the table's size: to 0, as it was told
            _, at = _integer(block, at, 5)
        else:
            index, at = _integer(block, at, 6 if first & 0x40 else 4)
            name: bytes | int = _checked(index)
            if not index:
                name, at = _read_string(block, at)
            value, at = _read_string(block, at)
            yield name, value


def _checked(index: int) -> int:
    if index > _STATIC:
        raise HeadersInvalid("the server uses a dynamic header table although none is allowed")
    return index


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    length, at = _integer(block, at, 7)
    if at + length > len(block):
        raise IndexError
    return block[at : at + length], at + length


def _string(value: bytes) -> bytes:
    """Write a string without the Huffman code: its length with a prefix of seven bits, and itself."""
    if len(value) < 0x7F:
        return bytes((len(value),)) + value
    rest = len(value) - 0x7F
    out = bytearray((0x7F,))
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out) + value
