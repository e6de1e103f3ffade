"""The connection against a server that is written out frame by frame."""

from __future__ import annotations

import gc
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import frames
from bench.load.frames import Frame, FrameReader, ProtocolFailed, frame_bytes
from bench.load.hpack import grpc_status, literal, request_block
from bench.load.http2 import Answer, Connection, framed

PATH = "/inference.GRPCInferenceService/ModelInfer"
HEAD = b"\x88" + literal(b"content-type", b"application/grpc")
FULL = frames.END_HEADERS | frames.END_STREAM


def connection(**settings: int) -> Connection:
    """Return a connection whose greetings are over."""
    made = Connection(request_block("localhost:1", PATH), keep_bodies=True)
    keys = {"streams": frames.MAX_CONCURRENT_STREAMS, "window": frames.INITIAL_WINDOW_SIZE}
    made.receive(frame_bytes(frames.SETTINGS, 0, 0, pairs({keys[name]: value for name, value in settings.items()})), 0)
    made.take()
    return made


def pairs(settings: dict[int, int]) -> bytes:
    return b"".join(struct.pack(">HI", *setting) for setting in settings.items())


def sent(made: Connection) -> list[Frame]:
    return list(FrameReader().feed(made.take()))


def trailers(code: int) -> bytes:
    return literal(b"grpc-status", str(code).encode())


def answer(stream: int, code: int = 0, body: bytes = b"") -> bytes:
    return (
        frame_bytes(frames.HEADERS, frames.END_HEADERS, stream, HEAD)
        + (frame_bytes(frames.DATA, 0, stream, framed(body)) if body else b"")
        + frame_bytes(frames.HEADERS, FULL, stream, trailers(code))
    )


def test_greetings():
    made = Connection(request_block("localhost:1", PATH))
    first = made.take()
    assert first.startswith(frames.PREFACE)
    settings, window = FrameReader().feed(first[len(frames.PREFACE) :])
    assert settings.kind == frames.SETTINGS
    assert pairs({frames.HEADER_TABLE_SIZE: 0}) in settings.payload  # so that every block stands for itself
    assert window == (frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
    made.receive(frame_bytes(frames.SETTINGS, 0, 0, b"") + frame_bytes(frames.PING, 0, 0, b"12345678"), 0)
    assert sent(made) == [
        (frames.SETTINGS, frames.ACK, 0, b""),
        (frames.PING, frames.ACK, 0, b"12345678"),
    ]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, b"1u"), (0.25, b"250000u"), (99.999999, b"99999999u"), (300, b"300000m"), (1e9, b"99999999S")],
)
def test_the_server_is_told_how_long_a_call_may_take(seconds: float, told: bytes):
    made = connection()
    made.call(1, framed(b""), now=10.0, deadline=10.0 + seconds)
    assert sent(made)[0].payload.endswith(literal(b"grpc-timeout", told))


def test_calls_and_answers_in_any_order():
    made = connection()
    made.call(10, framed(b"one"), now=0.0)
    made.call(11, framed(b"two"), now=0.0, deadline=0.25)
    head, data, second, _ = sent(made)
    assert head == (frames.HEADERS, frames.END_HEADERS, 1, request_block("localhost:1", PATH))
    assert data == (frames.DATA, frames.END_STREAM, 1, b"\x00\x00\x00\x00\x03one")
    assert second.stream == 3
    assert second.payload.endswith(literal(b"grpc-timeout", b"250000u"))
    assert made.pending == 2
    assert made.receive(answer(3, body=b"2") + answer(1, code=8), 0) == [Answer(11, 0, b"2"), Answer(10, 8, b"")]
    assert made.pending == 0
    assert made.next_deadline is None


@given(st.binary(max_size=300), st.data())
def test_bytes_may_come_in_any_pieces(body: bytes, data: st.DataObject):
    whole = answer(1, body=body + b".") + answer(3, code=14)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    made = connection()
    made.call(0, framed(b""), 0)
    made.call(1, framed(b""), 0)
    answers = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        answers += made.receive(whole[start:end], 0)
    assert answers == [Answer(0, 0, body + b"."), Answer(1, 14, b"")]


def test_a_padded_block_in_pieces():
    made = connection()
    made.call(5, framed(b""), 0)
    flags = frames.END_STREAM | 0x8 | 0x20  # padded, with a priority
    made.receive(frame_bytes(frames.HEADERS, flags, 1, b"\x02" + bytes(5) + trailers(3)[:4] + b"\x00\x00"), 0)
    assert made.receive(frame_bytes(9, frames.END_HEADERS, 1, trailers(3)[4:]), 0) == [Answer(5, 3, b"")]


def test_flow_control_holds_back_what_does_not_fit():
    made = connection(window=10)
    message = framed(b"x" * 20)
    made.call(0, message, 0)
    _, first = sent(made)
    assert (first.flags, first.payload) == (0, message[:10])
    made.receive(frame_bytes(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 12)), 0)
    assert [frame.payload for frame in sent(made)] == [message[10:22]]
    made.receive(frame_bytes(frames.SETTINGS, 0, 0, pairs({frames.INITIAL_WINDOW_SIZE: 20})), 0)
    _, last = sent(made)
    assert (last.flags, last.payload) == (frames.END_STREAM, message[22:])
    assert made.receive(answer(1), 0) == [Answer(0, 0, b"")]


def test_the_windows_of_the_connection_and_of_frames():
    made = connection(window=1 << 20)
    made.call(0, framed(bytes(70_000)), 0)
    sizes = [len(frame.payload) for frame in sent(made) if frame.kind == frames.DATA]
    assert sizes == [16_384] * 3 + [16_383]
    made.receive(frame_bytes(frames.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)), 0)
    assert [len(frame.payload) for frame in sent(made)] == [70_005 - 65_535]


def test_an_answer_before_all_was_sent_ends_the_sending():
    made = connection(window=10)
    made.call(0, framed(bytes(100)), 0)
    made.take()
    assert made.receive(answer(1, code=8), 0) == [Answer(0, 8, b"")]
    assert [frame.kind for frame in sent(made)] == [frames.RST_STREAM]
    made.receive(frame_bytes(frames.WINDOW_UPDATE, 0, 1, struct.pack(">I", 1000)), 0)
    assert sent(made) == []


def test_calls_beyond_the_limit_of_streams_wait():
    made = connection(streams=1)
    for tag in range(3):
        made.call(tag, framed(b"%d" % tag), 0)
    assert {frame.stream for frame in sent(made)} == {1}
    assert made.pending == 3
    assert made.receive(answer(1), 0) == [Answer(0, 0, b"")]
    assert {frame.stream for frame in sent(made)} == {3}


def test_a_call_that_expires_makes_room_for_one_that_waits():
    """Whatever the server says: if it answers nothing, it may say nothing, and would be asked nothing any more."""
    made = connection(streams=1)
    made.call(0, framed(b""), 0.0, deadline=1.0)
    made.call(1, framed(b""), 0.5, deadline=1.5)
    made.take()
    assert made.expire(1.0) == [Answer(0, 4, b"")]
    assert [(frame.kind, frame.stream) for frame in sent(made)] == [
        (frames.RST_STREAM, 1), (frames.HEADERS, 3), (frames.DATA, 3),
    ]  # fmt: skip
    assert made.receive(answer(3), 1.1) == [Answer(1, 0, b"")]


def test_calls_that_wait_when_the_server_leaves_are_given_back():
    made = connection(streams=1)
    for tag in range(3):
        made.call(tag, framed(b"%d" % tag), 0, deadline=float(tag) if tag else None)
    made.take()
    leave = frame_bytes(frames.GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0))
    assert made.receive(leave + answer(1), 0) == [Answer(0, 0, b"")]
    assert sent(made) == []  # none was opened there
    assert made.give_back() == [(1, framed(b"1"), 1.0), (2, framed(b"2"), 2.0)]
    assert (made.pending, made.next_deadline) == (0, None)


def test_padding_counts_for_the_window_of_the_connection():
    made = connection()
    made.call(0, framed(b""), 0)
    made.take()
    padded = frame_bytes(frames.DATA, 0x8, 1, b"\xff" + bytes(16_000))
    renewed = 0
    for _ in range(2 * (1 << 28) // 16_001):
        made.receive(padded, 0)
        renewed += sum(int.from_bytes(frame.payload, "big") for frame in sent(made))
    assert renewed % 16_001 == 0
    assert 1 << 28 <= renewed < (1 << 28) + 16_001


def lines_run(step: Callable[[], object]) -> int:
    """Count the lines of Python that a step executes."""
    count = 0

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # others have it call functions of theirs
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return count


@pytest.mark.parametrize("settings", [{"window": 3}, {"window": 1 << 20}])  # held back by their own windows, by all's
def test_a_call_costs_the_same_however_many_are_held_back(settings: dict[str, int]):
    costs = []
    for waiting in (2, 500):
        made = connection(**settings)
        for tag in range(waiting):
            made.call(tag, framed(bytes(70_000)), 0)
        made.take()

        def one_more(made: Connection = made, tag: int = waiting) -> None:
            made.call(tag, framed(bytes(70_000)), 0)
            widened = struct.pack(">I", 2)
            made.receive(frame_bytes(frames.WINDOW_UPDATE, 0, 2 * tag + 1, widened), 0)
            made.receive(answer(2 * tag + 1, code=8), 0)

        costs.append(lines_run(one_more))
        assert made.pending == waiting
    assert costs[0] == costs[1]


@given(st.data())
def test_all_that_is_held_back_is_sent_within_the_windows(data: st.DataObject):
    made = connection(window=data.draw(st.integers(0, 40_000)))
    messages = [framed(bytes([tag]) * size) for tag, size in enumerate(data.draw(st.lists(st.integers(0, 60_000))))]
    came: dict[int, bytes] = {}
    allowed = 65_535
    for tag, message in enumerate(messages):
        made.call(tag, message, 0)
    while True:
        for frame in sent(made):
            if frame.kind == frames.DATA:
                came[frame.stream] = came.get(frame.stream, b"") + frame.payload
        assert sum(map(len, came.values())) <= allowed
        behind = [tag for tag, message in enumerate(messages) if came.get(2 * tag + 1, b"") != message]
        if not behind:
            break
        for stream in (0, *(2 * tag + 1 for tag in behind)):
            made.receive(frame_bytes(frames.WINDOW_UPDATE, 0, stream, struct.pack(">I", 30_000)), 0)
        allowed += 30_000


def test_deadlines_end_calls_that_wait_or_run():
    made = connection(streams=1)
    made.call(0, framed(b""), 0.0, deadline=1.0)
    made.call(1, framed(b""), 0.1, deadline=1.1)
    made.take()
    assert made.next_deadline == 1.0
    assert made.expire(0.9) == []
    assert made.expire(2.0) == [Answer(0, 4, b""), Answer(1, 4, b"")]
    assert [frame[:3] for frame in sent(made)] == [(frames.RST_STREAM, 0, 1)]
    assert made.pending == 0
    assert made.receive(answer(1), 2.0) == []  # too late: nobody waits


@pytest.mark.parametrize(("reason", "code"), [(7, 14), (8, 1), (11, 8), (12, 7), (0, 13), (2, 13)])
def test_a_reset_ends_a_call(reason: int, code: int):
    made = connection()
    made.call(4, framed(b""), 0)
    assert made.receive(frame_bytes(frames.RST_STREAM, 0, 1, struct.pack(">I", reason)), 0) == [Answer(4, code, b"")]


def test_a_server_that_leaves_answers_what_it_has_taken():
    made = connection()
    for tag in range(3):
        made.call(tag, framed(b""), 0)
    leave = frame_bytes(frames.GOAWAY, 0, 0, struct.pack(">II", 3, 0))
    assert made.receive(leave, 0) == [Answer(2, 14, b"")]
    assert made.closing
    assert made.receive(answer(1), 0) == [Answer(0, 0, b"")]
    assert made.abandon(14) == [Answer(1, 14, b"")]


def test_data_without_trailers_has_no_status():
    made = connection()
    made.call(0, framed(b""), 0)
    data = frame_bytes(frames.DATA, frames.END_STREAM, 1, framed(b"x"))
    assert made.receive(data, 0) == [Answer(0, 2, b"x")]


def test_an_answer_that_is_not_of_grpc_tells_by_its_http_status():
    made = connection()
    made.call(0, framed(b""), 0)
    head = frame_bytes(frames.HEADERS, frames.END_HEADERS, 1, status(b"503") + literal(b"server", b"proxy"))
    assert made.receive(head, 0) == []
    assert made.receive(frame_bytes(frames.DATA, frames.END_STREAM, 1, b"later"), 0) == [Answer(0, 14, b"")]


def status(value: bytes) -> bytes:
    return literal(b":status", value)


def huffman(code: bytes) -> bytes:
    """A field with its name and value in the Huffman code."""
    name = bytes.fromhex("9acac8b21234da8f")
    return b"\x00" + bytes([0x80 | len(name)]) + name + bytes([0x80 | len(code)]) + code


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (trailers(0), 0),
        (trailers(16), 16),
        (b"\x20" + trailers(7), 7),  # the size of the table is set to 0 first
        (b"\x40" + literal(b"grpc-status", b"5")[1:], 5),  # to be indexed, in a table of no size
        (huffman(bytes.fromhex("7b")), 8),
        (huffman(bytes.fromhex("0b3f")), 13),
        (literal(b"grpc-message", b"m" * 5000) + trailers(8), 8),
        (trailers(99), 2),
        (b"\x88", 2),
        (b"\x8c", 13),  # :status 400
        (b"\x8d", 12),  # 404
        (b"\x8e", 2),  # 500
        (status(b"401"), 16),
        (status(b"403"), 7),
        (status(b"404"), 12),
        (status(b"418"), 2),
        *((status(refused), 14) for refused in (b"429", b"502", b"503", b"504")),
        (b"\x08" + literal(b"", b"503")[2:], 14),  # the name by its index
        (status(b"503")[:-4] + b"\x83" + bytes.fromhex("6c0cff"), 14),  # in the Huffman code
        (b"\x00\x85" + bytes.fromhex("b8848d36a3") + b"\x82" + bytes.fromhex("6801"), 16),
        (b"\x88" + trailers(3), 3),
        (status(b"503") + trailers(8), 8),
    ],
)
def test_the_status_is_found(block: bytes, code: int):
    assert grpc_status(block) == code


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\xbe", "the server uses a dynamic header table although none is allowed"),
        (trailers(0)[:-1], "a header block ends too early"),
        (b"\x00\x7f\xff", "a header block ends too early"),
        (b"\x00\x7f" + b"\xff" * 1000, "a header block has a number that is too long"),
    ],
)
def test_blocks_that_cannot_be_read(block: bytes, message: str):
    with pytest.raises(ProtocolFailed, match=message):
        grpc_status(block)


@pytest.mark.parametrize(
    "foreign",
    [
        lambda: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda: bytes.fromhex("15030100020246") + bytes(20),
        lambda: frame_bytes(frames.HEADERS, 0, 1, b"\x88") + frame_bytes(frames.PING, 0, 0, bytes(8)),
        lambda: frame_bytes(9, 0, 1, b""),
        lambda: frame_bytes(frames.DATA, 0x8, 1, b""),
        lambda: frame_bytes(frames.DATA, 0x8, 1, b"\x02x"),
        lambda: frame_bytes(frames.SETTINGS, 0, 0, bytes(7)),
        lambda: frame_bytes(frames.SETTINGS, 0, 0, b"\0\5\0\0\0\0"),
    ],
)
def test_another_protocol_is_refused(foreign: Callable[[], bytes]):
    with pytest.raises(ProtocolFailed):
        connection().receive(foreign(), 0)


def test_a_token_is_sent_and_indexed_by_nobody():
    block = request_block("localhost:1", PATH, secure=True, token="hush")
    assert block.startswith(b"\x83\x87")  # :method POST, :scheme https
    assert block.endswith(b"\x10\x0dauthorization\x0bBearer hush")  # never indexed: RFC 7541, section 6.2.3
    assert b"authorization" not in request_block("localhost:1", PATH)
