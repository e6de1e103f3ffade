"""Calls that change what is served wait for each other and for nobody else; whoever leaves first changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from service.errors import RepositorySilent
from service.transport.off_loop import OffLoop
from service.transport.servicers import Method
from tests.fakes import GUARD_SECONDS


def method(handle: Callable[[Any], Any], **kind: bool) -> Method:
    return Method("/a.B/C", None, None, handle, **kind)


@pytest.fixture
def died() -> list[Exception]:
    return []


@pytest.fixture
def off_loop(died: list[Exception]) -> Iterator[OffLoop]:
    made = OffLoop(died.append)
    made.start()
    yield made
    made.close()


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


def test_one_changes_after_the_other_and_looks_wait_for_none(off_loop: OffLoop) -> None:
    change = Changes()

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
    assert change.begun == ["a", "c"], "who left before its turn changed nothing"


def test_a_look_at_a_disk_that_hangs_and_those_behind_it_are_answered(died: list[Exception]) -> None:
    hangs, off_loop = Changes(), OffLoop(died.append, most_look_seconds=0.01)

    async def calls() -> None:
        looks = [off_loop.answer(method(hangs, blocking=True), name) for name in ("a", "b")]
        for answer in await asyncio.gather(*looks, return_exceptions=True):
            assert isinstance(answer, RepositorySilent)
            assert "did not answer within 0.01 seconds" in answer.message
        hangs.gate.set()

    off_loop.start()
    asyncio.run(calls())
    off_loop.close()
    assert hangs.begun in ([], ["a"]), "who has been answered is not looked for"
    assert not died


def test_only_what_blocks_leaves_the_loop_for_a_thread_that_no_exit_waits_for(off_loop: OffLoop) -> None:
    async def thread(**kind: bool) -> threading.Thread:
        found: threading.Thread = await off_loop.answer(method(lambda _: threading.current_thread(), **kind), None)
        return found

    async def calls() -> None:
        assert await thread() is threading.current_thread()
        looks, changes = await thread(blocking=True), await thread(changes=True)
        assert (looks.name, changes.name) == ("looks_0", "changes_0")
        assert looks.daemon
        assert changes.daemon

    asyncio.run(calls())


def test_a_failure_reaches_its_caller_and_the_next_call_is_answered(off_loop: OffLoop, died: list[Exception]) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    async def calls() -> None:
        with pytest.raises(MemoryError):
            await off_loop.answer(method(fail, changes=True), None)
        assert await off_loop.answer(method(lambda name: name, changes=True), "a") == "a"

    asyncio.run(calls())
    assert not died


@pytest.mark.parametrize("kind", ["changes", "blocking"])
def test_the_server_hears_of_a_thread_that_can_settle_no_call(
    off_loop: OffLoop, died: list[Exception], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    async def calls() -> None:
        for settles in ("set_result", "set_exception"):
            monkeypatch.setattr(Future, settles, no_memory)
        call = asyncio.create_task(off_loop.answer(method(lambda name: name, **{kind: True}), "a"))
        while not died:
            await asyncio.sleep(0)
        call.cancel()

    asyncio.run(calls())
    assert [str(error) for error in died] == [f"the thread {'changes' if kind == 'changes' else 'looks'}_0 died"]


def test_what_waits_when_it_closes_is_dropped(off_loop: OffLoop) -> None:
    change = Changes()

    async def calls() -> None:
        changing = [asyncio.create_task(off_loop.answer(method(change, changes=True), name)) for name in "ab"]
        assert await asyncio.to_thread(change.started.wait, GUARD_SECONDS)
        closing = asyncio.create_task(asyncio.to_thread(off_loop.close))
        while not off_loop._changes._closed:
            await asyncio.sleep(0)
        change.gate.set()
        await closing
        assert await changing[0] == "a"
        changing[1].cancel()

    asyncio.run(calls())
    assert change.begun == ["a"]
