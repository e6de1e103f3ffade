"""Work that may never end, such as opening a session: done on a thread of its own, waited for so long and no longer.

A thread cannot be ended from outside. One that is given up goes on, if it does, without showing anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from service.errors import LoadTimedOut

_SLICE_SECONDS = 1.0  # waited at a time: where the process stood still (a container that was paused), no more counts

_Result = TypeVar("_Result")
Start = Callable[[str, Callable[[], None]], None]
Wait = Callable[[threading.Event, float], bool]


class Attempt:
    """Tells who works whether somebody waits still. Thread-safe.

    Attributes:
        interrupted: Whether something was interrupted when it was given up, so that its end says nothing of the work.
    """

    def __init__(self) -> None:
        """Be waited for."""
        self.interrupted = False
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None
        self._given_up = self._committed = False

    def interruptible_by(self, interrupt: Callable[[], None]) -> None:
        """Have this called when it is given up, in place of what was said before, so that the work may end.

        Raises:
            LoadTimedOut: It has been given up.
        """
        with self._lock:
            self._check()
            self._interrupt = interrupt

    def commit(self) -> None:
        """Tell that what is left is quick and will be waited for; to be called before anything shows.

        Raises:
            LoadTimedOut: It has been given up.
        """
        with self._lock:
            self._check()
            self._committed = True

    def give_up(self) -> bool:
        """Wait no more, unless it has committed; tell whether it was given up."""
        with self._lock:
            self._given_up = not self._committed
            self.interrupted = self._given_up and self._interrupt is not None
        if self._given_up and self._interrupt is not None:
            self._interrupt()
        return self._given_up

    def _check(self) -> None:
        if self._given_up:
            raise LoadTimedOut("it ended after it had been given up")


class _Run(Generic[_Result]):
    """One attempt with its outcome."""

    def __init__(self, work: Callable[[Attempt], _Result]) -> None:
        self._work = work
        self.attempt = Attempt()
        self.ended = threading.Event()
        self._results: list[_Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        ended = self.ended
        try:
            self._results.append(self._work(self.attempt))
        except BaseException as error:  # it is raised where it is waited for
            self._error = error
        finally:
            del self  # which the error's traceback would keep, and it the error, with the session that was opened
            ended.set()

    def outcome(self) -> _Result:
        """Return or raise what came of it, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._results.pop()
        finally:
            del error


def on_a_thread(name: str, work: Callable[[], None]) -> None:
    """Begin work on a thread of that name, which does not keep the server from ending."""
    threading.Thread(target=work, name=name, daemon=True).start()


class Attempts:
    """Makes them, and knows those that were given up. Thread-safe."""

    def __init__(self, limit_seconds: float, start: Start = on_a_thread, wait: Wait = threading.Event.wait) -> None:
        """Make none yet.

        Args:
            limit_seconds: How long each is waited for; 0 for ever, and then it is made by who asks for it.
            start: Begins work on a thread of that name.
            wait: Waits for an event so many seconds, and tells whether it came.
        """
        self._limit_seconds = limit_seconds
        self._start = start
        self._wait = wait
        self._lock = threading.Lock()
        self._given_up: list[threading.Event] = []

    def make(self, name: str, work: Callable[[Attempt], _Result]) -> _Result:
        """Do work and wait for it.

        Args:
            name: Of its thread.
            work: Given its attempt; what it returns or raises is returned or raised.

        Raises:
            LoadTimedOut: It did not end in time and was given up.
        """
        if not self._limit_seconds:
            return work(Attempt())
        run = _Run(work)
        self._start(name, run.run)
        left = self._limit_seconds
        while left > 0 and not self._wait(run.ended, min(left, _SLICE_SECONDS)):
            left -= _SLICE_SECONDS
        if not run.ended.is_set() and run.attempt.give_up():
            with self._lock:  # none that has ended is kept
                self._given_up = [run.ended, *(ended for ended in self._given_up if not ended.is_set())]
            raise LoadTimedOut(f"it did not end within {self._limit_seconds:g} seconds and was given up")
        run.ended.wait()
        return run.outcome()

    @property
    def runs_on(self) -> bool:
        """Whether one that was given up has not ended."""
        return any(not ended.is_set() for ended in self._given_up)
