"""The thread that answers a batch while the next one runs: it loses nobody and takes one batch at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from service.batching import answering
from service.batching.answering import Answering, Unsettled
from tests.fakes import GUARD_SECONDS, make_request, reply_of


class Stage:
    """The thread, and an answer that stands still until its gate is opened."""

    def __init__(self) -> None:
        self.waiting = 20
        self.deaths = 0
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.done: list[str] = []
        self.answering = Answering("answers", lambda: self.waiting, self.die)

    def die(self) -> None:
        self.deaths += 1

    def answer(self, _unsettled: Unsettled) -> None:
        self.begun.set()
        assert self.gate.wait(GUARD_SECONDS)
        self.done.append("answered")


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.gate.set()
    stage.answering.close()


def test_it_is_not_woken_for_a_small_batch_nor_if_less_than_another_waits(stage: Stage) -> None:
    assert not stage.answering.take(15, stage.answer, [])
    assert not stage.answering.take(21, stage.answer, [])
    assert stage.answering.take(16, stage.answer, [])


def test_it_takes_one_batch_at_a_time(stage: Stage) -> None:
    assert stage.answering.take(16, stage.answer, [])
    assert stage.begun.wait(GUARD_SECONDS)
    assert not stage.answering.take(16, stage.answer, [])
    assert stage.done == []


def test_it_takes_another_once_it_has_answered(stage: Stage) -> None:
    stage.gate.set()
    assert stage.answering.take(16, stage.answer, [])
    until = time.monotonic() + GUARD_SECONDS
    while not stage.answering.take(16, stage.answer, []):
        assert time.monotonic() < until, "busy for ever"
    stage.answering.close()
    assert stage.done == ["answered"] * 2


def test_what_it_took_is_answered_before_it_is_closed(stage: Stage) -> None:
    def close() -> None:
        stage.answering.close()
        stage.done.append("closed")

    stage.answering.take(16, stage.answer, [])
    closing = threading.Thread(target=close)
    closing.start()
    stage.gate.set()
    closing.join(GUARD_SECONDS)
    assert stage.done == ["answered", "closed"]


def test_closing_waits_no_longer_than_it_is_told_to(stage: Stage) -> None:
    stage.answering.take(16, stage.answer, [])
    stage.answering.close(timeout_seconds=0.0)
    assert stage.done == []


def test_an_error_of_ours_refuses_those_who_are_left_and_is_told(stage: Stage) -> None:
    answered, left = make_request(1), make_request(2)

    def fail(unsettled: Unsettled) -> None:
        assert unsettled.popleft() is answered
        raise SystemExit

    assert stage.answering.take(16, fail, [answered, left])
    assert reply_of(left).wait() == "INTERNAL"
    assert reply_of(answered).times_settled == 0, "it was taken out before"
    stage.answering.close()
    assert stage.deaths == 1


def test_once_closed_it_takes_nothing_which_would_never_be_answered(stage: Stage) -> None:
    stage.answering.close()
    assert not stage.answering.take(16, stage.answer, [])


def test_it_may_be_closed_more_than_once_and_by_itself(stage: Stage) -> None:
    closed = threading.Event()

    def close(_unsettled: Unsettled) -> None:
        stage.answering.close()
        closed.set()

    assert stage.answering.take(16, close, [])
    assert closed.wait(GUARD_SECONDS)
    stage.answering.close()
    assert not stage.answering._thread.is_alive()


def test_without_memory_to_log_an_error_of_ours_it_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(answering._LOG, "exception", no_memory)
    left = make_request(1)
    assert stage.answering.take(16, no_memory, [left])
    assert reply_of(left).wait() == "INTERNAL"
    stage.answering.close()
    assert stage.deaths == 1
