"""The two parts of HPACK (RFC 7541) that a load generator needs: writing one block, and finding the gRPC status.

The connection allows the server no dynamic table, so a block means the same whenever it comes.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.load.codes import INTERNAL, PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN
from bench.load.frames import ProtocolFailed

_STATIC = 61  # entries of the static table; an index beyond it would be of the dynamic one
_MAX_INTEGER_BYTES = 5  # after the prefix: more than any block is long
_STATUSES = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}  # its ``:status``
STATUS_200 = b"\x88"  # the first byte of an answer, as a rule
_STATUS_NAME = (b":status", bytes.fromhex("b8848d36a3"), *_STATUSES)  # plain, in the Huffman code, by index
# grpc/doc/http-grpc-status-mapping.md, plain and in the Huffman code; all others are UNKNOWN.
_OF_HTTP = {
    value: code
    for status, huffman, code in (
        (b"400", "6800", INTERNAL),
        (b"401", "6801", UNAUTHENTICATED),
        (b"403", "680cff", PERMISSION_DENIED),
        (b"404", "680d7f", UNIMPLEMENTED),
        (b"429", "684fff", UNAVAILABLE),
        (b"502", "6c02", UNAVAILABLE),
        (b"503", "6c0cff", UNAVAILABLE),
        (b"504", "6c0d7f", UNAVAILABLE),
    )
    for value in (status, bytes.fromhex(huffman))
}
_NAME = (b"grpc-status", bytes.fromhex("9acac8b21234da8f"))  # plain, and in the Huffman code
_UNITS = ((b"u", 1), (b"m", 1000), (b"S", 1_000_000))  # of a timeout, in microseconds
_DIGITS = dict(enumerate(("07", "0f", "17", "67", "6b", "6f", "73", "77", "7b", "7f")))
_TEENS = dict(enumerate(("083f", "087f", "08bf", "0b3f", "0b5f", "0b7f", "0b9f"), start=10))
_CODES = {str(code).encode(): code for code in range(17)} | {
    bytes.fromhex(huffman): code for code, huffman in (_DIGITS | _TEENS).items()
}


def literal(name: bytes, value: bytes, *, secret: bool = False) -> bytes:
    """Write a field that shall not be indexed, a secret by no intermediary either (RFC 7541, section 6.2.3)."""
    return (b"\x10" if secret else b"\x00") + _string(name) + _string(value)


def timeout(seconds: float) -> bytes:
    """Write how long a call may take, in the finest unit in which it has the eight digits that gRPC allows."""
    micros = max(1, round(seconds * 1e6))
    unit, size = next(((unit, size) for unit, size in _UNITS if micros < size * 10**8), _UNITS[-1])
    return literal(b"grpc-timeout", b"%d%s" % (min(micros // size, 10**8 - 1), unit))


def request_block(authority: str, path: str, *, secure: bool = False, token: str = "") -> bytes:
    """Write the fields that all requests of a gRPC method share."""
    return b"".join(
        (
            b"\x83",  # static entries: :method POST, :scheme https or http
            b"\x87" if secure else b"\x86",
            b"\x04" + _string(path.encode()),
            b"\x01" + _string(authority.encode()),
            literal(b"te", b"trailers"),
            literal(b"content-type", b"application/grpc"),
            literal(b"user-agent", b"convserve-bench"),
            literal(b"authorization", b"Bearer " + token.encode(), secret=True) if token else b"",
        )
    )


def grpc_status(block: bytes) -> int:
    """Return the gRPC code of a block of trailers; if it has none, the code that gRPC gives the HTTP status.

    Raises:
        ProtocolFailed: The block cannot be read.
    """
    code, of_http = None, UNKNOWN
    try:
        for name, value in _fields(block):
            if name in _NAME:
                code = _CODES.get(value, UNKNOWN)
            elif name in _STATUS_NAME:
                of_http = _OF_HTTP.get(value, UNKNOWN)
    except IndexError:
        raise ProtocolFailed("a header block ends too early") from None
    return of_http if code is None else code


def _fields(block: bytes) -> Iterator[tuple[bytes | int, bytes]]:
    """Yield names and values as they are written; a static entry is its index, and its value if it is a status."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            yield _checked(index), _STATUSES.get(index, b"")
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
        raise ProtocolFailed("the server uses a dynamic header table although none is allowed")
    return index


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ProtocolFailed("a header block has a number that is too long")


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
