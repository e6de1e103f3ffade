"""Which thread may push another off its core just because something arrived (sched(7)): see ADR 6."""

from __future__ import annotations

import contextlib
import os


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


def _set(policy: str) -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, getattr(os, policy), os.sched_param(0))
