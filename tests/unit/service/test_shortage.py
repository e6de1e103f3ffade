"""Errors of a system that gives too little are told from faults of our own."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading

import pytest

from service.errors import ManifestInvalid, SettingsError
from service.shortage import passes, shortages_named, start_thread
from service.transport.address import listening


class PanicException(BaseException):
    """What a panic in Rust becomes, which is no Exception."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/some/file"), "too many open files: allow more (ulimit -n"),
        (RuntimeError("tokio runtime: Too many open files (os error 24)"), "too many open files: allow more"),
        (RuntimeError("tokio runtime: Resource temporarily unavailable (os error 11)"), "no thread can be started"),
        (PanicException("OS can't spawn worker thread: Resource … (os error 11)"), "no thread can be started"),
        (RuntimeError("can't start new thread"), "no thread can be started: allow more threads or memory"),
        (MemoryError(), "memory ran out: allow more"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory ran out: allow more"),
    ],
    ids=str,
)
def test_what_the_system_does_not_give_is_one_line_with_the_remedy(error: BaseException, said: str) -> None:
    with pytest.raises(SettingsError) as caught, shortages_named():
        raise error
    assert str(caught.value).startswith(f"cannot start: {said}")
    assert "\n" not in str(caught.value)


def test_python_says_so_of_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    starts = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
    monkeypatch.setattr(threading, starts, refuse)
    with pytest.raises(SettingsError, match="no thread can be started"), shortages_named():
        threading.Thread().start()


def test_a_thread_that_might_die_before_it_begins_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(_: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    thread = threading.Thread()
    with monkeypatch.context() as patched:
        patched.setattr(mmap, "mmap", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread") as caught:
            start_thread(thread)
    assert asked[0] > 8 * 1024 * 1024, "its stack and more"
    assert thread.ident is None
    assert passes(caught.value), "who asked for it tries again"
    start_thread(thread)
    thread.join()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the intake thread died"),
        RuntimeError("tokio runtime: Permission denied (os error 13)"),
        OSError(errno.ENOENT, "No such file"),
        OSError("no number"),
        ValueError("can't start new thread"),
        KeyError("x"),
        PanicException("index out of bounds"),
        KeyboardInterrupt(),
    ],
    ids=str,
)
def test_any_other_error_is_a_fault_and_stays_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, shortages_named():
        raise error
    assert caught.value is error


def test_no_other_address_helps_where_no_file_can_be_opened() -> None:
    with (
        pytest.raises(SettingsError, match="too many open files"),
        shortages_named(),
        listening("grpc", "::1", 1, "--host"),
    ):
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("given", ["context", "cause", "itself"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/some/file"), True),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), True),
        (Exception("Too many open files (os error 24)"), True),  # tokenizers
        (RuntimeError("Load model from /m/model.onnx failed:system error number 24"), True),  # ONNX Runtime
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("env.cc:327 … pthread_create failed, error code: 11 error msg: Resource …"), True),
        (Exception("Resource temporarily unavailable (os error 11)"), True),
        (MemoryError(), False),
        (RuntimeError("pthread_create failed, error code: 110"), False),
        (Exception("No such file or directory (os error 2)"), False),
        (RuntimeError("Load model from /m/model.onnx failed:system error number 240"), False),
        (OSError(errno.ENOENT, "No such file"), False),
    ],
    ids=str,
)
def test_want_of_files_and_of_threads_is_told_from_other_errors(error: Exception, expected: bool, given: str) -> None:
    """Whatever was made of them."""
    made: Exception = ManifestInvalid("not readable")
    if given == "context":
        made.__context__, made.__suppress_context__ = error, True  # as `from None` leaves it
    elif given == "cause":
        made.__cause__ = error
    else:
        made = error
    assert passes(made) == expected
