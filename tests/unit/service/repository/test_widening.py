"""Versions get their session for batches that are alone after they became READY, one by one, and only once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest

from service.metrics import Metrics
from service.repository.attempt import Attempts
from service.repository.lifecycle import Lifecycle
from service.repository.reconciler import Reconciler
from service.repository.widening import Widening
from service.settings import Settings
from tests.unit.service.repository.test_attempt import Threads
from tests.unit.service.samples import make_servable


class FakeSession:
    """Opened at the given try.

    Attributes:
        opened: How often it was asked.
        during: Called at each.
    """

    def __init__(self, settled_after: int = 1) -> None:
        self.settled_after = settled_after
        self.opened = 0
        self.is_given_up = False
        self.during: Callable[[], None] = lambda: None

    @property
    def settled(self) -> bool:
        return self.is_given_up or self.opened >= self.settled_after

    def open(self, _batcher: object, _attempt: object) -> None:
        self.opened += 1
        self.during()

    def give_up(self) -> None:
        self.is_given_up = True


def widening_of(attempts: Attempts | None = None, /, **sessions: FakeSession | None) -> Widening:
    metrics = Metrics("0", "test")
    lifecycle = Lifecycle(metrics)
    for name, session in sessions.items():
        lifecycle.put(dataclasses.replace(make_servable(), name=name, lone=session))  # type: ignore[arg-type]
    return Widening(lifecycle, Reconciler(Settings(), metrics, lifecycle, attempts=attempts))


def test_each_is_opened_once_and_who_can_have_none_is_left_alone() -> None:
    sessions = {"a": FakeSession(), "b": None, "c": FakeSession()}
    widening = widening_of(**sessions)
    widening.look()
    widening.look()
    assert [session.opened for session in sessions.values() if session] == [1, 1]


def test_who_could_not_be_priced_is_tried_again() -> None:
    session = FakeSession(settled_after=3)
    widening = widening_of(a=session)
    for _ in range(5):
        widening.look()
    assert session.opened == 3


def test_one_that_does_not_come_up_is_given_up_and_keeps_no_other_waiting(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads()
    threads.hanging = {"widen a"}
    hanging, other = FakeSession(), FakeSession()
    widening = widening_of(threads.attempts(), a=hanging, b=other)
    with caplog.at_level(logging.ERROR):
        widening.look()
        widening.look()
    assert (hanging.is_given_up, other.is_given_up, other.opened) == (True, False, 1)
    assert threads.begun == ["widen a", "widen b"]
    assert "batches that run alone get no extra threads: it did not end within 2.5 seconds" in caplog.text


def leave(widening: Widening) -> None:
    widening._lifecycle.withdraw(widening._lifecycle.find("b"))


@pytest.mark.parametrize("meanwhile", [Widening.stop, leave])
def test_nothing_is_opened_once_it_is_to_stop_or_who_wanted_it_left(meanwhile: Callable[[Widening], Any]) -> None:
    first, second = FakeSession(), FakeSession()
    widening = widening_of(a=first, b=second)
    first.during = lambda: meanwhile(widening) and None
    widening.look()
    assert (first.opened, second.opened) == (1, 0)


def test_an_error_is_logged_and_the_thread_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.repository.widening._LOOK_EVERY_SECONDS", 0.0)
    session = FakeSession(settled_after=2)

    def fail_first() -> None:
        if session.opened == 1:
            raise RuntimeError("no memory")
        widening.stop()

    session.during = fail_first
    widening = widening_of(a=session)
    with caplog.at_level(logging.ERROR):
        widening.start()
        widening._thread.join(10)
    assert not widening._thread.is_alive()
    assert session.opened == 2
    assert "checking for sessions to open failed" in caplog.text
    assert widening.stop(), "nothing is under way"
