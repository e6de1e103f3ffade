"""Answers reach the loop although there may be no memory to wake it; the loop is a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.transport.reply_queue import ReplyQueue


class Loop:
    """Keeps what is due, while there is memory."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.has_memory = True

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        if not self.has_memory:
            raise MemoryError
        self.due.append(call)

    def run(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


def test_many_answers_wake_the_loop_once() -> None:
    loop: Any = Loop()
    replies, told = ReplyQueue(loop), []
    for number in range(3):
        replies.call(lambda number=number: told.append(number))  # type: ignore[misc]
    assert len(loop.due) == 1
    loop.run()
    assert told == [0, 1, 2]


def test_what_could_not_wake_the_loop_is_taken_along_and_keeps_no_later_answer() -> None:
    loop: Any = Loop()
    replies, told = ReplyQueue(loop), []
    loop.has_memory = False
    with pytest.raises(MemoryError):
        replies.call(lambda: told.append("first"))
    replies.flush()
    assert told == ["first"]
    loop.has_memory = True
    replies.call(lambda: told.append("second"))
    loop.run()
    assert told == ["first", "second"]


def test_an_answer_that_cannot_be_passed_on_keeps_no_other() -> None:
    loop: Any = Loop()
    replies, told = ReplyQueue(loop), []

    def fail() -> None:
        raise MemoryError

    replies.call(fail)
    replies.call(lambda: told.append("second"))
    loop.run()
    assert told == ["second"]
