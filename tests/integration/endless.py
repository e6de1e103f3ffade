"""A caller that announces a gRPC message of 2 GiB and sends it until somebody stops it. HTTP/2 by hand (RFC 9113)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from tests.integration import http2

_ANNOUNCED = 2**31 - 1


@dataclass(frozen=True)
class Stopped:
    """What became of it: bytes sent until the other side ended the stream, and how it did (``trailers``, …)."""

    sent: int
    by: str


def send_endlessly(port: int, path: str, most: int) -> Stopped:
    """Send until the stream is ended by the other side, or ``most`` bytes are sent; keeps to flow control."""
    with begin(port, path) as connection:
        return send(connection, most)


def begin(port: int, path: str) -> socket.socket:
    """Connect and send a call's headers."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(http2.PREFACE + http2.settings() + http2.call_headers(1, path))
    return connection


def send(connection: socket.socket, most: int) -> Stopped:
    """Send the call's message as :func:`send_endlessly` does, but leave the connection open."""
    reader = connection.makefile("rb")
    windows = {0: 65535, 1: 65535}
    initial, sent = 65535, 0
    payload = b"\x00" + struct.pack(">I", _ANNOUNCED)
    filler = bytes(http2.FRAME_BYTES)
    while sent < most:
        room = min(windows.values())
        if room >= http2.FRAME_BYTES:
            chunk = (payload + filler)[: http2.FRAME_BYTES]
            payload = b""
            try:
                connection.sendall(http2.frame(http2.DATA, 0, 1, chunk))
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
        if kind == http2.WINDOW_UPDATE:
            windows[stream] += struct.unpack(">I", body)[0]
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            for at in range(0, len(body), 6):
                name, value = struct.unpack_from(">HI", body, at)
                if name == http2.INITIAL_WINDOW_SIZE:
                    windows[1] += value - initial
                    initial = value
            connection.sendall(http2.frame(http2.SETTINGS, http2.ACK, 0, b""))
        elif kind in (http2.RST_STREAM, http2.GOAWAY):
            return Stopped(sent, "reset")
        elif kind in (http2.HEADERS, http2.DATA) and flags & http2.END_STREAM:
            return Stopped(sent, "trailers")
    return Stopped(sent, "nobody")
