"""Threads for what must not be done where a call is taken in: decoding, reading the disk, loading."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from service.errors import Draining
from service.vital import OnDeath, vital_thread

_LAST_SECONDS = 1.0  # for what is under way at the end, whose callers have been told

Work = Callable[[], object]


class Workers:
    """Do what they are given, in its order. Thread-safe.

    Not a pool of :mod:`concurrent.futures`: if a thread of one dies, it counts as idle for ever, what it had taken is
    lost, and nobody hears of it.
    """

    def __init__(self, name: str, threads: int, on_death: OnDeath, begin: Callable[[], None] = lambda: None) -> None:
        """Set up; see :meth:`start`.

        Args:
            name: The threads' names are made of it and a number.
            threads: How many.
            on_death: Called if work raises, which ends its thread.
            begin: Called first on each thread.
        """
        self.threads = threads
        self._begin = begin
        self._closed = False
        self._waiting: SimpleQueue[Work] = SimpleQueue()
        self._all = [vital_thread(f"{name}_{number}", self._serve, on_death) for number in range(threads)]

    def start(self) -> None:
        """Start all threads, so that no call has to wait for one.

        Raises:
            RuntimeError: The system refuses a thread.
        """
        for thread in self._all:
            thread.start()

    def submit(self, work: Work) -> None:
        """Have work done soon.

        Raises:
            Draining: They are closed (UNAVAILABLE).
        """
        if self._closed:
            raise Draining("the server is stopping")
        self._waiting.put(work)

    def close(self) -> bool:
        """Drop what waits and end the threads; return whether they have ended within a second."""
        self._closed = True
        for _ in self._all:
            self._waiting.put(_nothing)
        for thread in self._all:
            if thread.ident is not None:
                thread.join(_LAST_SECONDS / self.threads)
        return not any(thread.is_alive() for thread in self._all)

    def _serve(self) -> None:
        self._begin()
        while True:
            work = self._waiting.get()
            if self._closed:
                return
            work()
            del work  # nothing of it is kept until more comes


def _nothing() -> None:
    """Wake a thread."""
