"""Calls that change what is served wait for each other and for nobody else; whoever leaves first changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from service.transport.off_loop import OffLoop
from service.transport.servicers import Method
from tests.fakes import GUARD_SECONDS


def method(handle: Callable[[Any], Any], **kind: bool) -> Method:
    return Method("/a.B/C", None, None, handle, **kind)


def test_one_changes_after_the_other_and_looks_wait_for_none() -> None:
    off_loop, started, gate, begun = OffLoop(), threading.Event(), threading.Event(), list[str]()

    def change(name: str) -> str:
        begun.append(name)
        started.set()
        assert gate.wait(GUARD_SECONDS)
        return name

    async def calls() -> None:
        changing = [
            asyncio.create_task(off_loop.answer(method(change, changes=True), name)) for name in ("a", "b", "c")
        ]
        looks = [off_loop.answer(method(lambda name: name, blocking=True), name) for name in map(str, range(40))]
        assert await asyncio.gather(*looks) == [str(number) for number in range(40)]
        assert await off_loop.answer(method(lambda name: name), "at once") == "at once"
        assert await asyncio.to_thread(started.wait, GUARD_SECONDS)
        assert begun == ["a"]
        changing[1].cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(changing[0], changing[2]) == ["a", "c"]
        assert changing[1].cancelled()

    asyncio.run(calls())
    off_loop.close()
    assert begun == ["a", "c"], "who left before its turn changed nothing"


def test_what_waits_when_it_closes_is_dropped() -> None:
    off_loop, started, gate, begun = OffLoop(), threading.Event(), threading.Event(), list[str]()

    def change(name: str) -> None:
        begun.append(name)
        started.set()
        assert gate.wait(GUARD_SECONDS)

    async def calls() -> None:
        changing = [asyncio.create_task(off_loop.answer(method(change, changes=True), name)) for name in "ab"]
        assert await asyncio.to_thread(started.wait, GUARD_SECONDS)
        off_loop.close()
        gate.set()
        await asyncio.wait(changing)
        assert changing[1].cancelled()

    asyncio.run(calls())
    assert begun == ["a"]
