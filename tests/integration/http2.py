"""HTTP/2 by hand (RFC 9113), for callers that no client library would let us be: silent, slow, boundless."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4  # a setting
ENHANCE_YOUR_CALM = 0xB  # an error
FRAME_BYTES = 16384  # the most that a frame may hold unless agreed otherwise
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TIMEOUT_SECONDS = 60


class Frame(NamedTuple):
    """One frame as it was read."""

    kind: int
    flags: int
    stream: int
    body: bytes


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def settings(**values: int) -> bytes:
    """Return a SETTINGS frame; ``initial_window_size`` bounds what the other side may send on a stream."""
    names = {"initial_window_size": INITIAL_WINDOW_SIZE}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", names[name], value) for name, value in values.items()))


def call_headers(stream: int, path: str | bytes, *more: tuple[bytes, bytes]) -> bytes:
    """Return the HEADERS frame that begins a gRPC call."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path if isinstance(path, bytes) else path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    )
    # Literal, never indexed, no Huffman; no length here reaches 127.
    block = b"".join(b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    return frame(HEADERS, END_HEADERS, stream, block)


def message(stream: int, payload: bytes, *, end: bool = True, compressed: bool = False) -> bytes:
    """Return a gRPC message as DATA frames."""
    body = bytes([compressed]) + struct.pack(">I", len(payload)) + payload
    parts = [body[at : at + FRAME_BYTES] for at in range(0, len(body), FRAME_BYTES)]
    return b"".join(frame(DATA, END_STREAM if end and part is parts[-1] else 0, stream, part) for part in parts)


class Connection:
    """One connection; flow control is the test's business. Use as a context manager."""

    def __init__(self, port: int, **values: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self._reader = self.socket.makefile("rb")
        self.send(PREFACE + settings(**values))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Frame | None:
        """Return the next frame; None when the other side has closed the connection."""
        try:
            head = self._reader.read(9)
            if len(head) < 9:
                return None
            length = int.from_bytes(head[:3], "big")
            return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), self._reader.read(length))
        except ConnectionError:
            return None
