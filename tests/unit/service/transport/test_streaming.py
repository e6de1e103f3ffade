from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from service.transport.streaming import MAX_IN_FLIGHT, Stream


class AnswersAtOnce:
    """Calls whose every request is answered before ``begin`` returns."""

    def begin(self, _method: str, payload: bytes, _remaining: float | None, responder: Any, _metadata: Any) -> None:
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
        stream = Stream(calls, loop.call_soon, None, "id")
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
