"""Calls that change what is served wait for each other and for nobody else; whoever leaves first changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.transport.off_loop import OffLoop
from service.transport.servicers import Method
from tests.fakes import GUARD_SECONDS


def method(handle: Callable[[Any], Any], **kind: bool) -> Method:
    return Method("/a.B/C", None, None, handle, **kind)


class Changes:
    """Each waits at a gate; who has begun is kept in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.started = threading.Event()
        self.gate = threading.Event()

    def __call__(self, name: str) -> str:
        self.begun.append(name)
        self.started.set()
        assert self.gate.wait(GUARD_SECONDS)
        return name


def test_one_changes_after_the_other_and_looks_wait_for_none() -> None:
    off_loop, change = OffLoop(), Changes()

    async def calls() -> None:
        changing = [
            asyncio.create_task(off_loop.answer(method(change, changes=True), name)) for name in ("a", "b", "c")
        ]
        looks = [off_loop.answer(method(lambda name: name, blocking=True), name) for name in map(str, range(40))]
        assert await asyncio.gather(*looks) == [str(number) for number in range(40)]
        assert await off_loop.answer(method(lambda name: name), "at once") == "at once"
        assert await asyncio.to_thread(change.started.wait, GUARD_SECONDS)
        assert change.begun == ["a"]
        changing[1].cancel()
        await asyncio.sleep(0)
        change.gate.set()
        assert await asyncio.gather(changing[0], changing[2]) == ["a", "c"]
        assert changing[1].cancelled()

    asyncio.run(calls())
    off_loop.close()
    assert change.begun == ["a", "c"], "who left before its turn changed nothing"


def test_only_what_blocks_leaves_the_loop_and_what_changes_lets_batches_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[threading.Thread] = []
    monkeypatch.setattr("service.transport.off_loop.wait_for_turns", lambda: waiting.append(threading.current_thread()))
    off_loop = OffLoop()

    async def thread(**kind: bool) -> Any:
        return await off_loop.answer(method(lambda _: threading.current_thread(), **kind), None)

    async def calls() -> None:
        loop = threading.current_thread()
        assert await thread() is loop
        assert await thread(blocking=True) not in (loop, *waiting)
        assert [await thread(changes=True)] == waiting

    asyncio.run(calls())
    off_loop.close()


def test_what_waits_when_it_closes_is_dropped() -> None:
    off_loop, change = OffLoop(), Changes()

    async def calls() -> None:
        changing = [asyncio.create_task(off_loop.answer(method(change, changes=True), name)) for name in "ab"]
        assert await asyncio.to_thread(change.started.wait, GUARD_SECONDS)
        off_loop.close()
        change.gate.set()
        await asyncio.wait(changing)
        assert changing[0].result() == "a", "nobody waited for what was under way"
        assert changing[1].cancelled()

    asyncio.run(calls())
    assert change.begun == ["a"]
