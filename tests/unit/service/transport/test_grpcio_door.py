"""What keeps the grpcio transport listening; the server is a stand-in, and nothing listens."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.transport import grpcio_door
from service.transport.grpcio_door import GrpcioDoor


class Ended:
    """A server that has ended by itself."""

    async def wait_for_termination(self, _seconds: float) -> None:
        raise RuntimeError("ended")

    async def stop(self, _grace: float) -> None: ...


def door(died: list[Exception]) -> Any:
    made: Any = GrpcioDoor(None, [], None, SimpleNamespace(age_grace_seconds=0.0), None, died.append)  # type: ignore[arg-type]
    made._server = Ended()
    return made


def test_whatever_keeps_the_server_from_listening_again_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[Exception] = []
    made, tries = door(died), [MemoryError(), RuntimeError("can't start new thread"), OSError("in use")]
    monkeypatch.setattr(grpcio_door, "_LOOK_SECONDS", 0.0)

    async def listen(_address: str) -> int:
        if tries:
            raise tries.pop()
        made._server = None  # ends the watch
        return 1

    monkeypatch.setattr(made, "_listen", listen)
    made._loop.run_until_complete(made._keep("here"))
    made._loop.close()
    assert not tries
    assert not died


def test_the_server_hears_that_nobody_would_listen_again() -> None:
    died: list[Exception] = []
    made = door(died)

    async def keep() -> None:
        raise MemoryError

    async def scenario() -> None:
        keeper = asyncio.get_running_loop().create_task(keep())
        keeper.add_done_callback(made._kept)
        await asyncio.wait([keeper])
        await asyncio.sleep(0)

    made._loop.run_until_complete(scenario())
    made._loop.close()
    assert [type(death) for death in died] == [MemoryError]


def test_the_server_hears_that_the_loop_died_and_stopping_does_not_wait_for_it() -> None:
    died: list[Exception] = []
    made = door(died)
    made._thread.start()

    def die() -> None:
        raise SystemExit

    made._loop.call_soon_threadsafe(die)
    made._thread.join()
    assert [str(death) for death in died] == ["the thread grpcio died"]
    made.stop(0.0)
    made._loop.close()


def test_an_answer_for_which_the_loop_could_not_be_woken_goes_out_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = door([])
    answered: list[str] = []

    class Serving:
        async def wait_for_termination(self, _seconds: float) -> None:
            made._server = None  # ends the watch

    def no_memory(_: object) -> None:
        raise MemoryError

    made._server = Serving()
    with monkeypatch.context() as shortage:
        shortage.setattr(made._loop, "call_soon_threadsafe", no_memory)
        with pytest.raises(MemoryError):
            made._replies.call(lambda: answered.append("call"))
    made._loop.run_until_complete(made._keep("here"))
    made._loop.close()
    assert answered == ["call"]
