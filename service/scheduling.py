"""Which thread may push another off its core just because something arrived (sched(7)): see ADR 6."""

from __future__ import annotations

import contextlib
import os

_HURRY_SECONDS = 1.0


def wait_for_turns() -> None:
    """Let this thread, and those that it starts, wait for the end of a slice: SCHED_BATCH.

    A core that runs a batch would else stop for every call and every refusal, and warm its caches anew each time. Does
    nothing where the system has no such policy, forbids it, or was asked for another one.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        _set("SCHED_BATCH")


def take_turns_at_once() -> None:
    """Undo :func:`wait_for_turns` for this thread: for one on which all others wait, such as an event loop's."""
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_BATCH:
        _set("SCHED_OTHER")


class Hurry:
    """Turns at once for the calling thread from a refusal on until there was none for a second.

    Past capacity callers wait for a refusal, not for a turn: the thread that refuses, and rests in between, takes the
    core when its rest is over. Below, whoever is woken waits. To be asked by one thread, of its own.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self.is_on = False

    def note(self, refused: bool, now: float) -> None:
        """Take note of a trip at an instant in seconds, and change the thread's policy if that changes anything."""
        if refused:
            self._until = now + _HURRY_SECONDS
        is_on = refused or (self.is_on and now < self._until)
        if is_on is not self.is_on:
            self.is_on = is_on
            (take_turns_at_once if is_on else wait_for_turns)()


def _set(policy: str) -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, getattr(os, policy), os.sched_param(0))
