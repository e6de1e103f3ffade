"""Where the doors' threads are sent; a fake stands for the operating system, but in one test."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable

import pytest

from service.cores import Cores

DOORS = [11, 12]


class System:
    """Remembers where threads were sent; ``core`` is where the calling thread runs."""

    def __init__(self, allowed: Iterable[int] = (0, 1)) -> None:
        self.core = 0
        self.sent: list[tuple[int, list[int]]] = []
        self.cores = Cores(allowed, self.move, lambda: self.core)
        self.cores.lead(DOORS)

    def move(self, thread: int, cores: Iterable[int]) -> None:
        self.sent.append((thread, sorted(cores)))

    def news(self) -> list[tuple[int, list[int]]]:
        sent, self.sent = self.sent, []
        return sent


def all_on(*cores: int) -> list[tuple[int, list[int]]]:
    return [(door, list(cores)) for door in DOORS]


def test_the_doors_follow_a_batch_that_leaves_the_only_free_core_until_the_next_one_begins() -> None:
    system = System()
    as_the_next_began: list[object] = []

    def while_the_other_core_is_busy() -> None:
        system.core = 1
        system.cores.taken_by(lambda: None, 1)()
        assert system.news() == all_on(1)
        system.cores.taken_by(lambda: as_the_next_began.extend(system.news()), 1)()

    system.cores.taken_by(while_the_other_core_is_busy, 1)()
    assert as_the_next_began == all_on(0, 1)


def test_the_doors_are_free_once_two_cores_are() -> None:
    system = System()
    system.cores.taken_by(system.cores.taken_by(lambda: None, 1), 1)()
    assert system.news() == all_on(0) + all_on(0, 1)
    system.cores.taken_by(lambda: None, 1)()
    assert system.news() == [], "nothing else ran, so there was an idle core all along"


def test_a_batch_that_leaves_several_cores_is_not_followed() -> None:
    system = System((0, 1, 2))
    system.cores.taken_by(lambda: None, 3)()
    assert system.news() == []
    system.cores.taken_by(system.cores.taken_by(lambda: None, 1), 2)()
    assert system.news() == all_on(0) + all_on(0, 1, 2)


def test_a_batch_that_fails_is_followed_and_counted_out() -> None:
    system = System()

    def fail() -> None:
        raise ValueError("why")

    def other() -> None:
        with pytest.raises(ValueError, match="why"):
            system.cores.taken_by(fail, 1)()

    system.cores.taken_by(other, 1)()
    assert system.news() == all_on(0) + all_on(0, 1)
    system.cores.taken_by(lambda: None, 1)()
    assert system.news() == []


@pytest.mark.parametrize("returns", [True, False])
def test_a_run_that_is_given_up_takes_no_core_any_more_even_if_it_ends(returns: bool) -> None:
    system = System((0, 1, 2))
    seen: list[bool] = []

    def hang() -> None:
        seen.append(system.cores.idle)
        given_up.give_up()
        seen.append(system.cores.idle)
        if not returns:
            raise ValueError("interrupted")

    given_up = system.cores.taken_by(hang, 2)
    with contextlib.nullcontext() if returns else pytest.raises(ValueError, match="interrupted"):
        given_up()
    assert (seen, system.cores.idle) == ([False, True], True)
    given_up.give_up()
    system.cores.taken_by(lambda: seen.append(system.cores.idle), 1)()
    assert (seen[2], system.cores.idle) == (False, True)


def test_a_run_that_just_begins_is_given_up_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System()
    begin, seen = system.cores.begin, []

    def overtaken(threads: int) -> None:
        begin(threads)
        given_up.give_up()

    monkeypatch.setattr(system.cores, "begin", overtaken)
    given_up = system.cores.taken_by(lambda: seen.append(system.cores.idle), 2)
    given_up()
    assert (seen, system.cores.idle) == ([True], True)


def test_who_is_given_up_leaves_others_where_they_are_and_sends_nobody() -> None:
    system = System()
    other = system.cores.taken_by(lambda: None, 1)
    given_up = system.cores.taken_by(lambda: (given_up.give_up(), system.news(), other(), system.news()), 1)
    assert given_up() == (None, [], None, []), "two cores are free again, so nobody follows"


def test_what_a_run_is_given_goes_on() -> None:
    assert System().cores.taken_by(lambda *given: given, 1)(1, 2) == (1, 2)


def test_one_core_leaves_nothing_to_choose() -> None:
    system = System((3,))
    system.cores.taken_by(lambda: None, 1)()
    assert system.news() == []


def test_batches_are_counted_wherever_they_run() -> None:
    cores = System((3,)).cores
    seen = []
    cores.taken_by(lambda: seen.append((cores.idle, cores.begun)), 2)()
    assert (seen, cores.idle, cores.begun) == ([(False, 1)], True, 1)


def test_nobody_is_sent_to_a_core_that_is_not_free() -> None:
    """More threads than cores: a lone batch of two, beside which another ended."""
    system = System((0, 1))
    system.cores.taken_by(system.cores.taken_by(system.news, 1), 2)()
    assert system.news() == []


def test_a_sandbox_may_forbid_it() -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    cores = Cores((0, 1), forbidden, lambda: 0)
    cores.lead(DOORS)
    assert cores.taken_by(cores.taken_by(lambda: "answers", 1), 1)() == "answers"
    cores.roam()


def test_a_core_without_a_number_harms_no_batch() -> None:
    def real(_thread: int, cores: Iterable[int]) -> None:
        if min(cores) < 0:
            raise ValueError("negative CPU number")

    cores = Cores((0, 1), real, lambda: -1)
    cores.lead(DOORS)
    assert cores.taken_by(cores.taken_by(lambda: "answers", 1), 1)() == "answers"


def test_nobody_is_sent_before_there_are_doors() -> None:
    sent: list[object] = []
    cores = Cores((0, 1), lambda *given: sent.append(given), lambda: 0)
    cores.taken_by(cores.taken_by(lambda: None, 1), 1)()
    assert sent == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads are bound to cores on Linux")
def test_real_threads_are_sent_and_roam() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")
    end, found = threading.Event(), []

    def wait_and_roam() -> None:
        end.wait()
        found.append(os.sched_getaffinity(0))
        cores.roam()
        found.append(os.sched_getaffinity(0))

    cores = Cores()
    door = threading.Thread(target=wait_and_roam)
    door.start()
    assert door.native_id is not None
    cores.lead([door.native_id])

    def while_all_others_run() -> None:
        cores.taken_by(lambda: None, 1)()
        end.set()
        door.join()

    cores.taken_by(while_all_others_run, len(allowed) - 1)()
    assert len(found[0]) == 1
    assert found[0] < allowed
    assert found[1] == allowed
