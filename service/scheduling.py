"""How threads share the cores: who may push another off (ADR 6), who gets how much of a busy one (ADR 7); sched(7)."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_HURRY_SECONDS = 1.0
_A_LEVEL = 1.25  # what one level of niceness is worth on Linux (kernel/sched/core.c, sched_prio_to_weight)
_MOST_NICE = 19
LEAST_WEIGHT = 0.02  # 1.25 ** -19 is 0.014
_SLICE_SECONDS = 1e-4  # the shortest that Linux grants
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # numbers of a system call that Python does not wrap

_Result = TypeVar("_Result")


def wait_for_turns() -> None:
    """Let this thread, and those that it starts, wait until a running thread's slice ends: SCHED_BATCH.

    Otherwise a core that runs a batch would stop for every call and every refusal, and lose its warm caches each time.
    Does nothing if the system has no such policy or forbids it, or if the thread already has another one.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        _set("SCHED_BATCH")


def take_turns_at_once() -> None:
    """Undo :func:`wait_for_turns` for this thread, because all others wait for it, as for an event loop's."""
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_BATCH:
        _set("SCHED_OTHER")


def take_short_slices() -> None:
    """Take the shortest time slices, so that threads that may preempt this one can do so soon (sched_setattr(2)).

    Otherwise a thread that is woken just after this one got the core, such as right after a tick, waits for the next
    tick: up to 4 ms. Threads that this one started before keep their slices. Does nothing if the system cannot do it
    (Linux before 6.12) or forbids it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    with contextlib.suppress(AttributeError, OSError):  # a sandbox may forbid it, a C library may have no syscall
        policy, niceness = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        attributes = struct.pack("IIQiIQQQ", 48, policy, 0, niceness, 0, int(_SLICE_SECONDS * 1e9), 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


class Hurry:
    """Lets the calling thread preempt others from a refusal on, until there has been none for a second.

    Past capacity callers wait for refusals: the thread that refuses rests between its trips, and takes the core when a
    rest is over. Below capacity it waits its turn as others do. For one thread, about itself.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self.is_on = False

    def note(self, refused: bool, now: float) -> None:
        """Note whether a trip that ended at ``now``, in seconds, refused anybody; change the policy if that matters."""
        if refused:
            self._until = now + _HURRY_SECONDS
        is_on = refused or (self.is_on and now < self._until)
        if is_on is not self.is_on:
            self.is_on = is_on
            (take_turns_at_once if is_on else wait_for_turns)()


def at_weight(weight: float, action: Callable[[], _Result]) -> _Result:
    """Run an action on a thread of that weight, which the threads that it starts inherit.

    On busy cores a thread gets time in proportion to its weight. Without a privilege a thread can become lighter, but
    not heavier again, so the action runs on a thread that ends with it. Where the system has no such weights, it runs
    as it would anyway.

    Args:
        weight: From :data:`LEAST_WEIGHT` to 1, the weight of other threads; 1 runs the action on this thread.
        action: What it returns or raises is returned or raised.
    """
    levels = round(-math.log(weight, _A_LEVEL))
    if not levels or sys.platform != "linux":  # elsewhere threads have no niceness of their own
        return action()

    def lighter() -> _Result:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            own = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, own, min(_MOST_NICE, os.getpriority(os.PRIO_PROCESS, own) + levels))
        return action()

    with ThreadPoolExecutor(1, thread_name_prefix="lighter") as thread:
        return thread.submit(lighter).result()


def _set(policy: str) -> None:
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.sched_setscheduler(0, getattr(os, policy), os.sched_param(0))
