"""Work that does not end is given up, shows nothing later, and keeps nobody waiting."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable

import pytest

from service.errors import GraphInvalid, LoadTimedOut
from service.repository.attempt import Attempt, Attempts
from tests.fakes import GUARD_SECONDS


class Threads:
    """Runs what is begun at once, or later where that is told; time flies while somebody waits.

    Attributes:
        hanging: Names of those that do not go on by themselves.
        begun: Names of the threads.
        waited: Seconds, one for each time that somebody waited.
    """

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self.begun: list[str] = []
        self.waited: list[float] = []
        self._later: list[Callable[[], None]] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        self.begun.append(name)
        if name in self.hanging:
            self._later.append(work)
        else:
            work()

    def go_on(self) -> None:
        """Have what hangs longest go on, here."""
        self._later.pop(0)()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.waited.append(seconds)
        return event.is_set()

    def attempts(self, limit_seconds: float = 2.5) -> Attempts:
        return Attempts(limit_seconds, self.start, self.wait)


def raising(error: BaseException) -> object:
    raise error


def test_what_work_returns_and_raises_reaches_who_waits() -> None:
    threads = Threads()
    attempts = threads.attempts()
    assert attempts.make("load a/1", lambda _: 7) == 7
    with pytest.raises(GraphInvalid, match="damaged"):
        attempts.make("load a/1", lambda _: raising(GraphInvalid("damaged")))
    assert threads.begun == ["load a/1", "load a/1"]
    assert not attempts.runs_on


def test_what_does_not_end_is_given_up_and_known_until_it_ends() -> None:
    threads = Threads()
    attempts = threads.attempts()
    threads.hanging = {"load a/1"}
    with pytest.raises(LoadTimedOut, match=r"did not end within 2\.5 seconds"):
        attempts.make("load a/1", lambda _: 7)
    assert threads.waited == [1.0, 1.0, 0.5], "in slices: time that the process stands still counts little"
    assert attempts.runs_on
    threads.go_on()
    assert not attempts.runs_on


@pytest.mark.usefixtures("without_garbage_collection")
@pytest.mark.parametrize("hangs", [False, True])
def test_what_failed_leaves_nothing_behind(hangs: bool) -> None:
    """A session holds the weights, and a server that is idle collects no garbage for hours."""

    class Session:
        pass

    def fail(_: Attempt) -> None:
        session = Session()
        opened.append(weakref.ref(session))
        raise GraphInvalid("damaged")

    threads, opened = Threads(), list[weakref.ref[Session]]()
    threads.hanging = {"load a/1"} if hangs else set()
    with contextlib.suppress(GraphInvalid, LoadTimedOut):
        threads.attempts().make("load a/1", fail)
    if hangs:
        threads.go_on()
    assert [session() for session in opened] == [None]


def test_what_was_given_up_shows_nothing() -> None:
    threads = Threads()
    attempts = threads.attempts()
    threads.hanging = {"load a/1"}
    shown: list[str] = []

    def work(attempt: Attempt) -> None:
        try:
            attempt.commit()
        except LoadTimedOut:
            shown.append("given up")
            raise
        shown.append("a servable")

    with pytest.raises(LoadTimedOut):
        attempts.make("load a/1", work)
    threads.go_on()
    assert shown == ["given up"]


def test_what_has_committed_is_waited_for() -> None:
    attempt = Attempt()
    interrupted: list[str] = []
    attempt.interruptible_by(lambda: interrupted.append("a session"))
    attempt.commit()
    assert not attempt.interrupted
    assert not attempt.give_up()
    attempt.commit()
    assert not attempt.interrupted
    assert interrupted == []


def test_what_has_committed_when_its_time_is_over_is_waited_for() -> None:
    committed, is_over = threading.Event(), threading.Event()

    def work(attempt: Attempt) -> int:
        attempt.commit()
        committed.set()
        assert is_over.wait(GUARD_SECONDS)
        return 7

    def time_out(_: threading.Event, seconds: float) -> bool:
        assert committed.wait(GUARD_SECONDS)
        is_over.set()
        return False

    assert Attempts(1.0, wait=time_out).make("load a/1", work) == 7


def test_what_had_nothing_to_interrupt_was_not_interrupted() -> None:
    """So it ended because whatever delayed it is over, and may be tried again."""
    attempt = Attempt()
    assert attempt.give_up()
    assert not attempt.interrupted


def test_what_is_given_up_is_interrupted_and_goes_no_further() -> None:
    attempt = Attempt()
    interrupted: list[str] = []
    attempt.interruptible_by(lambda: interrupted.append("a session"))
    assert attempt.give_up()
    assert attempt.interrupted
    assert interrupted == ["a session"]
    with pytest.raises(LoadTimedOut):
        attempt.interruptible_by(lambda: interrupted.append("another"))
    with pytest.raises(LoadTimedOut):
        attempt.commit()
    assert interrupted == ["a session"]


def test_without_a_limit_nobody_gives_up_and_no_thread_is_begun() -> None:
    threads = Threads()
    assert threads.attempts(0.0).make("load a/1", lambda attempt: attempt.commit()) is None
    assert threads.begun == []


def test_it_is_done_on_a_thread_of_that_name_which_does_not_keep_the_server_from_ending() -> None:
    found: list[threading.Thread] = []
    Attempts(GUARD_SECONDS).make("load a/1", lambda _: found.append(threading.current_thread()))
    assert [(thread.name, thread.daemon) for thread in found] == [("load a/1", True)]
