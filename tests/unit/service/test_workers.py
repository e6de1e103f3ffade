"""The threads that decode: no work is lost unseen."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest

from service.errors import Draining
from service.workers import Workers
from tests.fakes import GUARD_SECONDS


def started(threads: int) -> Workers:
    workers = Workers("prepare", threads, pytest.fail)
    workers.start()
    return workers


def test_work_is_done_by_as_many_threads_as_were_asked_for() -> None:
    workers, together = started(2), threading.Barrier(3)
    for _ in range(2):
        workers.submit(lambda: together.wait(GUARD_SECONDS))
    together.wait(GUARD_SECONDS)
    assert workers.close()


def test_the_threads_exist_before_the_first_call() -> None:
    workers = started(3)
    names = {thread.name for thread in threading.enumerate()}
    assert {"prepare_0", "prepare_1", "prepare_2"} <= names
    assert workers.close()


@pytest.mark.parametrize("error", [MemoryError, SystemExit, RuntimeError])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_server_hears_of_the_death_of_a_thread(error: type[BaseException], at_once: bool) -> None:
    def die() -> None:
        raise error

    died: list[Exception] = []
    workers = Workers("prepare", 1, died.append, die if at_once else lambda: None)
    workers.start()
    if not at_once:
        workers.submit(die)
    (thread,) = workers._all
    thread.join(GUARD_SECONDS)
    assert [str(death) for death in died] == ["the thread prepare_0 died"]
    assert workers.close()


def test_what_waits_at_the_end_is_dropped_and_nothing_more_is_taken() -> None:
    workers, begun, go_on = started(1), threading.Event(), threading.Event()
    done: list[int] = []

    def first() -> None:
        begun.set()
        assert go_on.wait(GUARD_SECONDS)

    workers.submit(first)
    assert begun.wait(GUARD_SECONDS)
    workers.submit(lambda: done.append(2))
    threading.Thread(target=lambda: (workers.close(), None)[1]).start()
    while not workers._closed:
        pass
    go_on.set()
    assert workers.close()
    assert not done
    with pytest.raises(Draining):
        workers.submit(lambda: done.append(3))


def test_closing_waits_a_second_in_all_and_says_if_a_thread_works_on() -> None:
    ended, working = Mock(), Mock()
    ended.is_alive.return_value, working.is_alive.return_value = False, True
    workers = Workers("prepare", 2, pytest.fail)
    workers._all = [working, ended]
    assert not workers.close()
    assert [thread.join.call_args.args for thread in workers._all] == [(0.5,), (0.5,)]


def test_what_was_never_started_can_be_closed() -> None:
    assert Workers("prepare", 2, pytest.fail).close()
