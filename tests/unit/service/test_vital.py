"""A thread that nothing works without tells its owner when it dies."""

from __future__ import annotations

import logging
import threading

import pytest

from service import vital
from service.vital import vital_thread


@pytest.mark.parametrize("error", [MemoryError, SystemExit, RuntimeError])
def test_the_owner_hears_of_a_death_even_if_it_cannot_be_logged(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def die() -> None:
        raise error

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(vital._LOG, "exception", no_memory)
    told: list[Exception] = []
    thread = vital_thread("intake", die, told.append)
    thread.start()
    thread.join()
    assert [str(death) for death in told] == ["the thread intake died"]


def test_the_log_has_the_reason_of_a_death(caplog: pytest.LogCaptureFixture) -> None:
    thread = vital_thread("intake", lambda: next(iter(())), lambda _: None)
    thread.start()
    thread.join()
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "the thread intake died")
    assert record.exc_info


def test_who_returns_has_not_died() -> None:
    thread = vital_thread("intake", lambda: None, pytest.fail)
    thread.start()
    thread.join()


def test_a_thread_has_its_name_and_never_keeps_the_program_from_ending() -> None:
    thread = vital_thread("intake", lambda: None, pytest.fail)
    assert (thread.name, thread.daemon) == ("intake", True)
