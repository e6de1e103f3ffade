"""The scheduling policy of threads; the operating system is asked, in threads of their own."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import scheduling

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the system has no SCHED_BATCH")


def policies() -> list[int]:
    found = [os.sched_getscheduler(0)]
    scheduling.wait_for_turns()
    found.append(os.sched_getscheduler(0))
    with ThreadPoolExecutor(1) as child:
        found.append(child.submit(os.sched_getscheduler, 0).result())
    scheduling.take_turns_at_once()
    return [*found, os.sched_getscheduler(0)]


def test_threads_wait_for_turns_and_those_that_they_start() -> None:
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(policies).result()
    assert found == [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER]


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def of_a_child() -> int:
    with ThreadPoolExecutor(1) as child:
        return child.submit(niceness).result()


@pytest.mark.parametrize(("weight", "levels"), [(1.0, 0), (0.8, 1), (0.25, 6), (0.02, 18)])
def test_a_weight_is_that_of_the_threads_that_an_action_starts_and_of_no_others(weight: float, levels: int) -> None:
    before = niceness()
    assert scheduling.at_weight(weight, of_a_child) == min(19, before + levels)
    assert niceness() == before
    assert of_a_child() == before


def test_what_an_action_of_some_weight_raises_is_raised() -> None:
    def fail() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        scheduling.at_weight(0.5, fail)


def slice_and_niceness() -> tuple[int, int]:
    """Of this thread: nanoseconds, as sched_getattr(2) tells them, and levels."""
    number = {"x86_64": 315, "aarch64": 275}.get(platform.machine())
    if number is None:
        pytest.skip("the number of sched_getattr is not known here")
    attributes = ctypes.create_string_buffer(48)
    if ctypes.CDLL(None).syscall(number, 0, attributes, 48, 0):
        pytest.skip("the system does not tell")
    fields = struct.unpack("IIQiIQQQ", attributes.raw)
    return fields[5], fields[3]


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_short_slices_are_those_of_the_thread_that_asks_and_change_nothing_else(weight: float) -> None:
    def ask() -> tuple[tuple[int, int], tuple[int, int], int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        before = slice_and_niceness()
        scheduling.take_short_slices()
        return before, slice_and_niceness(), os.sched_getscheduler(0)

    def asked() -> tuple[tuple[int, int], tuple[int, int], int]:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(ask).result()

    before, after, policy = scheduling.at_weight(weight, asked)
    if not before[0]:
        pytest.skip("this Linux gives no slices to threads")
    assert after[0] == 100_000 < before[0]
    assert (after[1], policy) == (before[1], os.SCHED_BATCH)
    assert scheduling.at_weight(weight, slice_and_niceness) == before


def test_slices_that_the_system_does_not_grant_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: int) -> int:
        raise PermissionError("a sandbox")

    monkeypatch.setattr(os, "getpriority", forbidden)
    scheduling.take_short_slices()
    monkeypatch.undo()
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    scheduling.take_short_slices()


def test_another_policy_of_the_operator_stays() -> None:
    def under_idle() -> int:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        scheduling.wait_for_turns()
        scheduling.take_turns_at_once()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(under_idle).result() == os.SCHED_IDLE


def test_a_sandbox_may_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    scheduling.wait_for_turns()


def test_a_refusal_hurries_its_thread_until_there_was_none_for_a_second() -> None:
    def trips() -> list[tuple[bool, int]]:
        scheduling.wait_for_turns()
        hurry, found = scheduling.Hurry(), []
        for refused, now in ((False, 9.0), (True, 10.0), (False, 10.9), (True, 10.95), (False, 11.9), (False, 11.96)):
            hurry.note(refused, now)
            found.append((hurry.is_on, os.sched_getscheduler(0)))
        return found

    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(trips).result()
    waits, hurries = (False, os.SCHED_BATCH), (True, os.SCHED_OTHER)
    assert found == [waits, hurries, hurries, hurries, hurries, waits]
