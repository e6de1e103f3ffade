"""Unary gRPC calls of one method over HTTP/2 (RFC 9113), without socket or clock: bytes in, bytes out.

A client for load only: a call costs it a fraction of the CPU that grpc's own client needs, so that the server is what
is measured. It observes flow control, the server's limit on streams and the deadlines of its calls.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from bench.load import codes, frames
from bench.load.frames import Frame, FrameReader, ProtocolFailed
from bench.load.hpack import STATUS_200, grpc_status, timeout

_RENEW = 1 << 28  # bytes received before they are given back to the server's window
# What gRPC makes of a stream that is reset (gRPC over HTTP2, "Errors"); INTERNAL otherwise.
_RESETS = {7: codes.UNAVAILABLE, 8: codes.CANCELLED, 11: codes.RESOURCE_EXHAUSTED, 12: codes.PERMISSION_DENIED}
_CACHED_BLOCKS = 4096


class Answer(NamedTuple):
    """How a call ended.

    Attributes:
        tag: Of the call.
        code: Of gRPC.
        body: The message; empty unless bodies are kept.
    """

    tag: int
    code: int
    body: bytes


@dataclass(slots=True)
class _Stream:
    tag: int
    body: list[bytes]
    code: int = codes.UNKNOWN  # where no trailers tell one


@dataclass(slots=True)
class _Upload:
    """The part of a message that flow control holds back."""

    stream: int
    rest: memoryview
    window: int


class Connection:
    """One connection. Not thread-safe."""

    def __init__(self, block: bytes, *, keep_bodies: bool = False) -> None:
        """Begin a connection; :meth:`take` has its first bytes.

        Args:
            block: The fields that all its calls share, see :func:`bench.load.hpack.request_block`.
            keep_bodies: Whether answers carry their message.
        """
        self._block = block
        self._keep_bodies = keep_bodies
        wishes = ((frames.HEADER_TABLE_SIZE, 0), (frames.ENABLE_PUSH, 0))
        settings = b"".join(
            struct.pack(">HI", *wish) for wish in (*wishes, (frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW))
        )
        self._out = [
            frames.PREFACE,
            frames.frame_bytes(frames.SETTINGS, 0, 0, settings),
            frames.window_update(0, frames.LARGEST_WINDOW - frames.FIRST_WINDOW),
        ]
        self._reader = FrameReader()
        self._received = 0
        self._streams: dict[int, _Stream] = {}
        self._numbers: dict[int, int] = {}  # stream by tag
        self._held: dict[int, tuple[bytes, float | None]] = {}  # by tag, in order: beyond the server's limit
        self._uploads: dict[int, _Upload] = {}  # by stream
        self._starved: dict[int, _Upload] = {}  # those that only the connection's window holds back, in order
        self._deadlines: deque[tuple[float, int]] = deque()
        self._next_stream = 1
        self._window = self._first_window = frames.FIRST_WINDOW
        self._frame_size = frames.FRAME_SIZE
        self._max_streams = frames.LARGEST_WINDOW
        self._codes: dict[bytes, int] = {}
        self.closing = False  # the server will take no more calls on this connection

    @property
    def pending(self) -> int:
        """Calls without an answer."""
        return len(self._streams) + len(self._held)

    @property
    def next_deadline(self) -> float | None:
        """The instant at which :meth:`expire` has to be called; None when there is none."""
        while self._deadlines:
            instant, tag = self._deadlines[0]
            if tag in self._numbers or tag in self._held:
                return instant
            self._deadlines.popleft()
        return None

    def take(self) -> bytes:
        """Return the bytes to write, once."""
        out, self._out = b"".join(self._out), []
        return out

    def call(self, tag: int, message: bytes, now: float, deadline: float | None = None) -> None:
        """Make a call.

        Args:
            tag: Carried by its answer.
            message: With the five bytes that gRPC puts before it, see :func:`framed`.
            now: The present instant.
            deadline: When it ends DEADLINE_EXCEEDED; not before the deadline of an earlier call.
        """
        if deadline is not None:
            self._deadlines.append((deadline, tag))
        if self._held or len(self._streams) >= self._max_streams:
            self._held[tag] = message, deadline
        else:
            self._open(tag, message, now, deadline)

    def receive(self, data: bytes, now: float) -> list[Answer]:
        """Take in received bytes; return the answers in them.

        Raises:
            ProtocolFailed: They are no HTTP/2, or not what was agreed on.
        """
        answers: list[Answer] = []
        for frame in self._reader.feed(data):
            self._take_in(frame, answers)
        self._received += self._reader.padding
        self._reader.padding = 0
        if self._received >= _RENEW:
            self._out.append(frames.window_update(0, self._received))
            self._received = 0
        self._open_held(now)
        return answers

    def expire(self, now: float) -> list[Answer]:
        """End the calls whose deadline has come, as gRPC's clients do: tell the server, and do not wait for it."""
        answers = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, tag = self._deadlines.popleft()
            if tag in self._numbers:
                self._forget(self._numbers[tag], tell=True)
            elif self._held.pop(tag, None) is None:
                continue
            answers.append(Answer(tag, codes.DEADLINE_EXCEEDED, b""))
        self._open_held(now)  # a server that answers nothing may be silent, too
        return answers

    def abandon(self, code: int) -> list[Answer]:
        """End all calls with a code: the connection is lost, or nobody waits any more."""
        answers = [Answer(tag, code, b"") for tag in (*self._numbers, *self._held)]
        self._streams.clear()
        self._numbers.clear()
        self._held.clear()
        self._uploads.clear()
        self._starved.clear()
        self.closing = True
        return answers

    def give_back(self) -> list[tuple[int, bytes, float | None]]:
        """Remove the calls that were not begun; return tag, message and deadline of each, in order."""
        held, self._held = self._held, {}
        return [(tag, message, deadline) for tag, (message, deadline) in held.items()]

    def _open_held(self, now: float) -> None:
        while self._held and not self.closing and len(self._streams) < self._max_streams:
            tag = next(iter(self._held))
            message, deadline = self._held.pop(tag)
            self._open(tag, message, now, deadline)

    def _open(self, tag: int, message: bytes, now: float, deadline: float | None) -> None:
        stream = self._next_stream
        self._next_stream += 2
        self._streams[stream] = _Stream(tag, [])
        self._numbers[tag] = stream
        block = self._block
        if deadline is not None:
            block += timeout(deadline - now)
        self._out.append(frames.frame_bytes(frames.HEADERS, frames.END_HEADERS, stream, block))
        size = len(message)
        if size <= min(self._frame_size, self._window, self._first_window):
            self._window -= size
            self._out += (frames.head(size, frames.DATA, frames.END_STREAM, stream), message)
        else:
            self._uploads[stream] = _Upload(stream, memoryview(message), self._first_window)
            self._upload(self._uploads[stream])

    def _upload(self, upload: _Upload) -> None:
        """Send as much of a message as the windows allow."""
        while upload.rest and (size := min(len(upload.rest), self._window, upload.window, self._frame_size)) > 0:
            flags = frames.END_STREAM if size == len(upload.rest) else 0
            self._out += (frames.head(size, frames.DATA, flags, upload.stream), bytes(upload.rest[:size]))
            upload.rest = upload.rest[size:]
            upload.window -= size
            self._window -= size
        if not upload.rest:
            del self._uploads[upload.stream]
        if upload.rest and upload.window > 0:
            self._starved.setdefault(upload.stream, upload)
        else:
            self._starved.pop(upload.stream, None)

    def _feed_starved(self) -> None:
        """Send what the connection's window now allows, in order."""
        while self._starved and self._window > 0:
            self._upload(next(iter(self._starved.values())))

    def _take_in(self, frame: Frame, answers: list[Answer]) -> None:
        kind, flags, stream, payload = frame
        if kind == frames.HEADERS:
            if flags & frames.END_STREAM:
                self._end(stream, self._code(payload), answers)
            elif not payload.startswith(STATUS_200) and stream in self._streams:
                # Not from a gRPC server but, for example, a proxy. With gRPC only the trailers tell the status.
                self._streams[stream].code = self._code(payload)
        elif kind == frames.DATA:
            self._received += len(payload)
            known = self._streams.get(stream)
            if known and self._keep_bodies:
                known.body.append(payload)
            if flags & frames.END_STREAM:
                self._end(stream, known.code if known else codes.UNKNOWN, answers)  # no trailers, so no status
        elif kind == frames.RST_STREAM:
            self._end(stream, _RESETS.get(int.from_bytes(payload, "big"), codes.INTERNAL), answers)
        elif kind == frames.WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload, "big") & frames.LARGEST_WINDOW)
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self._out.append(frames.frame_bytes(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            self.closing = True
            last = int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW
            for number in [number for number in self._streams if number > last]:
                self._end(number, codes.UNAVAILABLE, answers)

    def _code(self, block: bytes) -> int:
        code = self._codes.get(block)
        if code is None:
            code = grpc_status(block)
            if len(self._codes) < _CACHED_BLOCKS:
                self._codes[block] = code
        return code

    def _end(self, stream: int, code: int, answers: list[Answer]) -> None:
        known = self._streams.get(stream)
        if known is not None:
            self._forget(stream)
            answers.append(Answer(known.tag, code, b"".join(known.body)[5:]))

    def _forget(self, stream: int, *, tell: bool = False) -> None:
        del self._numbers[self._streams.pop(stream).tag]
        self._starved.pop(stream, None)
        if self._uploads.pop(stream, None) or tell:  # given up, or answered before all was sent
            self._out.append(frames.reset(stream))

    def _widen(self, stream: int, size: int) -> None:
        if not stream:
            self._window += size
            self._feed_starved()
        elif stream in self._uploads:
            self._uploads[stream].window += size
            self._upload(self._uploads[stream])

    def _settings(self, payload: bytes) -> None:
        if len(payload) % 6:
            raise ProtocolFailed("the server's settings end within one")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == frames.MAX_CONCURRENT_STREAMS:
                self._max_streams = value
            elif key == frames.MAX_FRAME_SIZE:
                if value < frames.FRAME_SIZE:  # RFC 9113, 6.5.2; with 0 nothing could ever be sent
                    raise ProtocolFailed(
                        f"the server takes frames of {value} bytes, expected {frames.FRAME_SIZE} or more"
                    )
                self._frame_size = value
            elif key == frames.INITIAL_WINDOW_SIZE:
                for upload in self._uploads.values():
                    upload.window += value - self._first_window
                self._first_window = value
        self._out.append(frames.frame_bytes(frames.SETTINGS, frames.ACK, 0, b""))
        for upload in [*self._uploads.values()]:
            self._upload(upload)


def framed(message: bytes) -> bytes:
    """Prefix a message as gRPC does: a byte for "not compressed", and its length."""
    return b"\x00" + len(message).to_bytes(4, "big") + message
