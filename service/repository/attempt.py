"""Work that may never end, such as opening a session: done on its own thread and awaited for a limited time.

A thread cannot be ended from outside. Work that was given up may go on, but shows no effect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from service.errors import LoadTimedOut
from service.shortage import start_thread

_SLICE_SECONDS = 1.0  # per wait, and the most that counts if the process stood still (a paused container)

_Result = TypeVar("_Result")
Start = Callable[[str, Callable[[], None]], None]
Wait = Callable[[threading.Event, float], bool]


class Attempt:
    """Tells the worker whether its work is still awaited. Thread-safe.

    Attributes:
        interrupted: Whether giving up interrupted something, so that the way the work ended says nothing about it.
    """

    def __init__(self) -> None:
        """Begin as awaited."""
        self.interrupted = False
        self._lock = threading.Lock()
        self._interrupt: Callable[[], None] | None = None
        self._given_up = self._committed = False

    def interruptible_by(self, interrupt: Callable[[], None]) -> None:
        """Set what giving up calls so that the work may end; replaces an earlier one.

        Raises:
            LoadTimedOut: The attempt has been given up.
        """
        with self._lock:
            self._check()
            self._interrupt = interrupt

    def commit(self) -> None:
        """Declare that the rest is quick and will be awaited. Call this before any effect shows.

        Raises:
            LoadTimedOut: The attempt has been given up.
        """
        with self._lock:
            self._check()
            self._committed = True

    def give_up(self) -> bool:
        """Give the attempt up unless it has committed; return whether it was given up."""
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
        except BaseException as error:  # raised again where the work is awaited
            self._error = error
        finally:
            del self  # or the error's traceback would keep it, and it the error, along with the opened session
            ended.set()

    def outcome(self) -> _Result:
        """Return or raise the outcome, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._results.pop()
        finally:
            del error


def on_a_thread(name: str, work: Callable[[], None]) -> None:
    """Start work on a daemon thread of that name.

    Raises:
        RuntimeError: The system refuses one.
    """
    start_thread(threading.Thread(target=work, name=name, daemon=True))


class Attempts:
    """Makes attempts, and knows those that were given up. Thread-safe."""

    def __init__(self, limit_seconds: float, start: Start = on_a_thread, wait: Wait = threading.Event.wait) -> None:
        """Set the limit.

        Args:
            limit_seconds: How long to wait for each attempt; 0 for no limit, on the calling thread.
            start: Starts work on a thread with the given name.
            wait: Waits for an event for the given seconds and returns whether it came.
        """
        self._limit_seconds = limit_seconds
        self._start = start
        self._wait = wait
        self._lock = threading.Lock()
        self._given_up: list[threading.Event] = []

    def make(self, name: str, work: Callable[[Attempt], _Result]) -> _Result:
        """Do work and wait for it.

        Args:
            name: The thread's name.
            work: Is given its attempt; its result or error is returned or raised.

        Raises:
            LoadTimedOut: The work did not end in time and was given up.
        """
        if not self._limit_seconds:
            return work(Attempt())
        run = _Run(work)
        self._start(name, run.run)
        left = self._limit_seconds
        while left > 0 and not self._wait(run.ended, min(left, _SLICE_SECONDS)):
            left -= _SLICE_SECONDS
        if not run.ended.is_set() and run.attempt.give_up():
            with self._lock:  # keep only those that have not ended
                self._given_up = [run.ended, *(ended for ended in self._given_up if not ended.is_set())]
            raise LoadTimedOut(f"it did not end within {self._limit_seconds:g} seconds and was given up")
        run.ended.wait()
        return run.outcome()

    @property
    def runs_on(self) -> bool:
        """Whether an attempt that was given up has not ended."""
        return any(not ended.is_set() for ended in self._given_up)
