"""HTTP/2 frames (RFC 9113, §4 and §6): from bytes to frames and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_CONTINUATION = 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
_PADDED, _PRIORITY = 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
CANCEL = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
FRAME_SIZE = 16_384  # what either side may send until told otherwise


class ProtocolFailed(Exception):
    """The server does not speak HTTP/2 as it must."""


class Frame(NamedTuple):
    """One frame, without padding and priority; a header block that came in several frames is one HEADERS frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Cuts received bytes into frames."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._buffer = bytearray()
        self._begun: Frame | None = None  # a header block that goes on in CONTINUATION
        self.padding = 0  # bytes taken away from DATA, which count for flow control

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take in bytes; yield the frames that they complete.

        Raises:
            ProtocolFailed: They are no HTTP/2.
        """
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if size > FRAME_SIZE:  # a server that speaks HTTP/1 or TLS ends here, too
                raise ProtocolFailed("the server does not speak HTTP/2 without TLS here; is this its gRPC port?")
            if end - at < 9 + size:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & LARGEST_WINDOW
            frame = Frame(buffer[at + 3], buffer[at + 4], stream, bytes(buffer[at + 9 : at + 9 + size]))
            at += 9 + size
            whole = self._whole(frame)
            if whole:
                yield whole
        del buffer[:at]

    def _whole(self, frame: Frame) -> Frame | None:
        """Return the frame, or the header block that it completes; None while a header block is incomplete."""
        kind, flags, stream, payload = frame
        begun = self._begun
        if (kind == _CONTINUATION) != (begun is not None):
            raise ProtocolFailed("expected a header block in one frame")
        if begun is not None:
            frame = Frame(HEADERS, begun.flags | flags & END_HEADERS, begun.stream, begun.payload + payload)
        elif kind in (DATA, HEADERS):
            if flags & _PADDED:
                if not payload or payload[0] >= len(payload):
                    raise ProtocolFailed("a frame holds less than its padding")
                payload = payload[1 : len(payload) - payload[0]]
                self.padding += len(frame.payload) - len(payload) if kind == DATA else 0
            if kind == HEADERS and flags & _PRIORITY:
                payload = payload[5:]
            frame = Frame(kind, flags, stream, payload)
        incomplete = frame.kind == HEADERS and not frame.flags & END_HEADERS
        self._begun = frame if incomplete else None
        return None if incomplete else frame


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the nine bytes before a payload."""
    return struct.pack(">HBBBI", size >> 8, size & 0xFF, kind, flags, stream)


def frame_bytes(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame as bytes."""
    return head(len(payload), kind, flags, stream) + payload


def window_update(stream: int, size: int) -> bytes:
    """Return the frame that allows the server ``size`` more bytes."""
    return frame_bytes(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def reset(stream: int) -> bytes:
    """Return the frame that tells the server that nobody waits for a stream any more."""
    return frame_bytes(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
