from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.transport import streaming
from service.transport.reply_queue import ReplyQueue
from service.transport.streaming import MAX_IN_FLIGHT, Stream
from tests.fakes import GUARD_SECONDS, FakeClock


class AnswersAtOnce:
    """Calls whose every request is answered before ``begin`` returns."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.dataplane = self
        self.remaining: list[float | None] = []

    def begin(self, _method: str, payload: bytes, remaining: float | None, responder: Any, _metadata: Any) -> None:
        self.remaining.append(remaining)
        responder.respond(payload)


def test_reads_no_faster_than_the_caller() -> None:
    """A caller who never reads holds a bounded number of answers, however much it sends."""
    taken = 0

    async def requests() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            await asyncio.sleep(0)
            yield b"request"

    async def settle() -> None:
        for _ in range(20 * MAX_IN_FLIGHT):
            await asyncio.sleep(0)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        calls: Any = AnswersAtOnce()
        stream = Stream(calls, ReplyQueue(loop), None, "id")
        answers = stream.run(requests())
        assert b"request" in await anext(answers)
        await settle()
        held = taken
        assert held <= MAX_IN_FLIGHT + 1
        for _ in range(10):
            await anext(answers)
        await settle()
        assert taken == held + 10
        await answers.aclose()

    asyncio.run(scenario())


class AnswersNever(AnswersAtOnce):
    """Calls that take in every request but the first, and answer none of those."""

    cancelled = 0

    def begin(self, _method: str, payload: bytes, remaining: float | None, responder: Any, _metadata: Any) -> Any:
        self.remaining.append(remaining)
        if len(self.remaining) > 1:
            return self
        responder.respond(payload)
        return None

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_drain_waits_for_what_was_taken_in_until_the_caller_has_left() -> None:
    """Not for what was refused at once: who goes on sending would keep the server."""
    unsent = []
    calls: Any = AnswersNever()

    async def scenario() -> None:
        replies = ReplyQueue(asyncio.get_running_loop())

        async def requests() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield b"request"
                unsent.append(replies.unsent)
            try:
                await asyncio.Event().wait()
            finally:
                unsent.append("read no more")

        answers = Stream(calls, replies, None, "id").run(requests())
        await anext(answers)
        while len(unsent) < 4:
            await asyncio.sleep(0)
        await answers.aclose()
        unsent.append(replies.unsent)
        await asyncio.sleep(0)
        assert unsent == [0, 1, 2, 3, 0, "read no more"]
        assert calls.cancelled == 3

    asyncio.run(scenario())


def test_a_drain_waits_no_longer_for_what_the_caller_has_read() -> None:
    class Answers(AnswersAtOnce):
        def begin(self, *given: Any) -> Any:
            super().begin(*given)
            return AnswersNever()

    async def requests() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        await asyncio.Event().wait()

    async def scenario() -> None:
        replies = ReplyQueue(asyncio.get_running_loop())
        calls: Any = Answers()
        answers = Stream(calls, replies, None, "id").run(requests())
        for _ in range(2):
            await anext(answers)
        assert replies.unsent == 1, "gRPC has taken the first"
        await answers.aclose()

    asyncio.run(scenario())


def test_a_stream_that_cannot_be_read_on_fails_behind_the_last_answer() -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"request"
        raise ConnectionResetError

    async def scenario() -> None:
        calls: Any = AnswersAtOnce()
        answers = Stream(calls, ReplyQueue(asyncio.get_running_loop()), None, "id").run(requests())
        assert b"request" in await anext(answers)
        with pytest.raises(ConnectionResetError):
            await anext(answers)

    asyncio.run(scenario())


@pytest.mark.parametrize(("time_remaining", "expected"), [(2.0, [2.0, 0.5, -1.0]), (None, [None] * 3)])
def test_each_request_has_what_is_left_of_the_streams_time(
    time_remaining: float | None, expected: list[float | None]
) -> None:
    calls: Any = AnswersAtOnce()

    async def requests() -> AsyncIterator[bytes]:
        for _ in expected:
            yield b"request"
            calls.clock.advance(1.5)

    async def scenario() -> None:
        stream = Stream(calls, ReplyQueue(asyncio.get_running_loop()), time_remaining, "id")
        assert len([answer async for answer in stream.run(requests())]) == len(expected)

    asyncio.run(scenario())
    assert calls.remaining == expected


def test_a_stream_ends_that_had_no_memory_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"request"

    def no_memory(*_: object) -> None:
        raise MemoryError

    async def scenario() -> None:
        calls: Any = AnswersAtOnce()
        answers = Stream(calls, ReplyQueue(asyncio.get_running_loop()), None, "id").run(requests())
        await asyncio.wait_for(anext(answers), GUARD_SECONDS)

    monkeypatch.setattr(streaming, "_StreamResponder", no_memory)
    with pytest.raises(MemoryError):
        asyncio.run(scenario())
