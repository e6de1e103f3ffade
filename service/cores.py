"""Chooses the cores for the doors' threads while batches keep the cores busy (ADR 10); sched_setaffinity(2)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

Move = Callable[[int, Iterable[int]], None]


class Cores:
    """Moves the threads that talk to callers to the core that a batch is about to leave.

    A batch's answers wake those threads while the batch's own thread still runs. If batches run on all other cores, the
    kernel has no idle core for them and may choose one that stays busy for milliseconds. When the batch's core becomes
    idle a moment later, the kernel does not move them there, because they ran a moment ago. So when a batch ends and
    leaves the only free core, these threads may run on that core only, until another batch begins or ends. At all
    other times they may run on every core of the process. Thread-safe. Only counts batches if the system cannot move
    threads, forbids it, or has one core.
    """

    def __init__(
        self,
        allowed: Iterable[int] | None = None,
        move: Move | None = None,
        here: Callable[[], int] | None = None,
    ) -> None:
        """Read which cores the process may use.

        Args:
            allowed: Numbers of these cores; None for those of the calling thread.
            move: Restricts a thread, given by its native id, to some cores. May raise OSError.
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
        self.begun = 0
        """Batches that have begun so far, of all models."""
        self._gathered = False
        self._lock = threading.Lock()

    def lead(self, thread_ids: Iterable[int]) -> None:
        """Move these threads, given by their native ids, from now on."""
        with self._lock:
            self._followers = (*self._followers, *thread_ids)

    @property
    def idle(self) -> bool:
        """Whether no batch runs on any of them."""
        return not self._busy

    def roam(self) -> None:
        """Let the calling thread run on every core: a thread inherits the cores of the one that started it."""
        self._send([threading.get_native_id()], self._allowed)

    def taken_by(self, run: Callable[..., Any], threads: int) -> Taking:
        """Wrap what runs batches, so that each run counts as taking ``threads`` cores."""
        return Taking(self, run, threads)

    def begin(self, threads: int) -> None:
        """Count a batch that begins and takes ``threads`` cores."""
        with self._lock:
            self._busy += threads
            self.begun += 1
            self._free()

    def end(self, threads: int) -> None:
        """Count a batch that ends; call it on the batch's own thread."""
        with self._lock:
            self._busy -= threads
            if self._here is not None and self._busy == len(self._allowed) - 1:
                self._gathered = True
                self._send(self._followers, [self._here()])
            else:
                self._free()

    def forget(self, threads: int) -> None:
        """Stop counting a batch that may never end."""
        with self._lock:
            self._busy -= threads
            self._free()

    def _free(self) -> None:
        if self._gathered:
            self._gathered = False
            self._send(self._followers, self._allowed)

    def _send(self, followers: Iterable[int], cores: Iterable[int]) -> None:
        if self._move is not None:
            # A sandbox may forbid it or not know a core's number (-1); a thread may have ended.
            with contextlib.suppress(OSError, ValueError):
                for follower in followers:
                    self._move(follower, cores)


class Taking:
    """Runs batches, and counts the cores that each takes. Thread-safe."""

    def __init__(self, cores: Cores, run: Callable[..., Any], threads: int) -> None:
        self._cores = cores
        self._run = run
        self._threads = threads
        self._under_way: list[None] = []  # an entry per run; whoever removes it counts the run out

    def __call__(self, *args: Any) -> Any:
        """Run a batch."""
        self._under_way.append(None)  # first, so that whoever gives up from now on counts this run out
        self._cores.begin(self._threads)
        try:
            return self._run(*args)
        finally:
            if self._was_under_way():
                self._cores.end(self._threads)

    def give_up(self) -> None:
        """Stop counting the runs under way: they may never end."""
        while self._was_under_way():
            self._cores.forget(self._threads)

    def _was_under_way(self) -> bool:
        try:
            self._under_way.pop()
        except IndexError:
            return False
        return True
