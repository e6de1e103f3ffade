"""A caller that announces a gRPC message of 2 GiB and sends it until somebody stops it. HTTP/2 by hand (RFC 9113)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_FRAME = 16384
_ANNOUNCED = 2**31 - 1


@dataclass(frozen=True)
class Stopped:
    """What became of it: bytes sent until the other side ended the stream, and how it did (``trailers``, …)."""

    sent: int
    by: str


def send_endlessly(port: int, path: str, most: int) -> Stopped:
    """Send until the stream is ended by the other side, or ``most`` bytes are sent; keeps to flow control."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        headers = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value  # literal, never indexed, no Huffman
            for name, value in (
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", b"localhost"),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            )
        )
        connection.sendall(_frame(_HEADERS, _END_HEADERS, 1, headers))
        return _pump(connection, most)


def _pump(connection: socket.socket, most: int) -> Stopped:
    reader = connection.makefile("rb")
    windows = {0: 65535, 1: 65535}
    initial, sent = 65535, 0
    payload = b"\x00" + struct.pack(">I", _ANNOUNCED)
    filler = bytes(_FRAME)
    while sent < most:
        room = min(windows.values())
        if room >= _FRAME:
            chunk = (payload + filler)[:_FRAME]
            payload = b""
            try:
                connection.sendall(_frame(_DATA, 0, 1, chunk))
            except OSError:
                return Stopped(sent, "reset")
            sent += len(chunk)
            windows = {key: value - len(chunk) for key, value in windows.items()}
            continue
        try:
            head = reader.read(9)
            kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
            body = reader.read(int.from_bytes(head[:3], "big"))
        except (OSError, IndexError):
            return Stopped(sent, "reset")
        if kind == _WINDOW_UPDATE:
            windows[stream] += struct.unpack(">I", body)[0]
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(body), 6):
                name, value = struct.unpack_from(">HI", body, at)
                if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    windows[1] += value - initial
                    initial = value
            connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind in (_RST_STREAM, _GOAWAY):
            return Stopped(sent, "reset")
        elif kind in (_HEADERS, _DATA) and flags & _END_STREAM:
            return Stopped(sent, "trailers")
    return Stopped(sent, "nobody")


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
