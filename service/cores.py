"""Where the doors' threads run while batches keep the cores busy (ADR 10); sched_setaffinity(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Generic, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")
Move = Callable[[int, Iterable[int]], None]


class Cores:
    """Sends the threads that speak with callers to the core that a batch is about to leave.

    A batch's answers wake those threads while its own thread still runs. If all other cores run batches, the kernel
    has no idle core to wake them on and may choose one that is taken for milliseconds more; when the batch's core falls
    idle a moment later it does not fetch them, since they ran a moment ago. So from the end of a batch that leaves the
    only free core they may run on that core only, until the next batch begins or another ends and there are two; at all
    other times wherever the process may. Thread-safe; counts only where the system has no such thing, forbids it, or
    has one core.
    """

    def __init__(
        self,
        allowed: Iterable[int] | None = None,
        move: Move | None = None,
        here: Callable[[], int] | None = None,
    ) -> None:
        """Look at what the process may use.

        Args:
            allowed: Numbers of the cores; None for those of the calling thread.
            move: Lets a thread, by its native id, run on these cores only. May raise OSError.
            here: Returns the core of the calling thread.
        """
        if sys.platform == "linux":
            allowed = os.sched_getaffinity(0) if allowed is None else allowed
            move = move or os.sched_setaffinity
            here = here or getattr(ctypes.PyDLL(None), "sched_getcpu", None)  # not CDLL: that gives up the GIL
        self._allowed = frozenset(allowed or ())
        self._move = move
        self._here = here if len(self._allowed) > 1 else None
        self._followers: tuple[int, ...] = ()
        self._busy = 0
        self._begun = 0
        self._gathered = False
        self._lock = threading.Lock()

    def lead(self, thread_ids: Iterable[int]) -> None:
        """Send these threads, by their native ids, from now on."""
        with self._lock:
            self._followers = (*self._followers, *thread_ids)

    @property
    def idle(self) -> bool:
        """Whether no batch runs on any of them."""
        return not self._busy

    @property
    def begun(self) -> int:
        """Batches that have begun so far, of all models."""
        return self._begun

    def roam(self) -> None:
        """Let the calling thread run anywhere, whoever started it: threads inherit where they may run."""
        self._send([threading.get_native_id()], self._allowed)

    def taken_by(self, run: Callable[_Given, _Result], threads: int) -> Taking[_Given, _Result]:
        """Return what runs batches, so that it takes so many cores while it does."""
        return Taking(self, run, threads)

    def begin(self, threads: int) -> None:
        """Count a batch in that takes so many cores."""
        with self._lock:
            self._busy += threads
            self._begun += 1
            self._free()

    def end(self, threads: int) -> None:
        """Count it out, on its own thread."""
        with self._lock:
            self._busy -= threads
            if self._here is not None and self._busy == len(self._allowed) - 1:
                self._gathered = True
                self._send(self._followers, [self._here()])
            else:
                self._free()

    def forget(self, threads: int) -> None:
        """Count one out that may never end."""
        with self._lock:
            self._busy -= threads
            self._free()

    def _free(self) -> None:
        if self._gathered:
            self._gathered = False
            self._send(self._followers, self._allowed)

    def _send(self, followers: Iterable[int], cores: Iterable[int]) -> None:
        if self._move is not None:
            # A sandbox may forbid it or know no core's number (-1), a thread may have ended.
            with contextlib.suppress(OSError, ValueError):
                for follower in followers:
                    self._move(follower, cores)


class Taking(Generic[_Given, _Result]):
    """Runs batches on so many cores each. Thread-safe."""

    def __init__(self, cores: Cores, run: Callable[_Given, _Result], threads: int) -> None:
        self._cores = cores
        self._run = run
        self._threads = threads
        self._under_way: list[None] = []  # one a run; whoever takes it out counts the run out

    def __call__(self, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        """Run a batch."""
        self._cores.begin(self._threads)
        self._under_way.append(None)
        try:
            return self._run(*args, **kwargs)
        finally:
            if self._was_under_way():
                self._cores.end(self._threads)

    def give_up(self) -> None:
        """Take no core any more for what is under way: it may never end."""
        while self._was_under_way():
            self._cores.forget(self._threads)

    def _was_under_way(self) -> bool:
        try:
            self._under_way.pop()
        except IndexError:
            return False
        return True
