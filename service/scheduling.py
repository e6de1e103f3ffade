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


def take_short_slices() -> None:
    """Let this thread be pushed off its core soon after it was given it, by those that may do so (sched_setattr(2)).

    Else whoever is woken while it is new on the core, such as right after a tick, waits for the next tick: up to 4 ms.
    Threads that were started before keep theirs. Does nothing where the system has no such thing (Linux before 6.12) or
    forbids it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    with contextlib.suppress(AttributeError, OSError):  # a sandbox may forbid it, a C library may have no syscall
        policy, niceness = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        attributes = struct.pack("IIQiIQQQ", 48, policy, 0, niceness, 0, int(_SLICE_SECONDS * 1e9), 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


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


def at_weight(weight: float, action: Callable[[], _Result]) -> _Result:
    """Run an action on a thread of that weight; threads that it starts inherit it.

    Where cores are busy a thread gets time in proportion to its weight. Threads may become lighter, but without a
    privilege not heavier again, so it is done on a thread that ends. Does nothing where the system has no such thing.

    Args:
        weight: From :data:`LEAST_WEIGHT` to 1, which is that of the others; 1 runs the action right here.
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
