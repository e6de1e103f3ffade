"""What the system does not give: to a server that starts, told in one line; told from other errors where it passes."""

from __future__ import annotations

import errno
import mmap
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import SettingsError

_NO_THREAD = "can't start new thread"  # the text of Python's RuntimeError, which has no class of its own
_OF_RUST = re.compile(r"\(os error (\d+)\)$")  # ends the texts of the native door's library
_STACK_BYTES = 8 * 1024 * 1024  # of a thread, unless `ulimit -s` says otherwise
_BEGINNING_BYTES = 1024 * 1024  # far more than Python takes before a thread's work begins
_PANIC = "PanicException"  # of that library, if it gets no thread; the class is in no module
_FILES = "too many open files: allow more (ulimit -n, LimitNOFILE= of systemd)"
_THREADS = "no thread can be started: allow more threads or memory (ulimit -u and -v, the container's limits)"
_MEMORY = "memory ran out: allow more (ulimit -v, the container's limit)"
_FILE_NUMBERS = (errno.EMFILE, errno.ENFILE)
# How tokenizers (Rust), ONNX Runtime and Python say that they got no file or no thread; errors of files have a number.
_PASSING = re.compile(
    rf"(?:\(os error|system error number) (?:{'|'.join(map(str, (*_FILE_NUMBERS, errno.EAGAIN)))})\)?$"
    rf"|pthread_create failed, error code: {errno.EAGAIN}\b|^{_NO_THREAD}$"
)
_BY_NUMBER = {errno.EMFILE: _FILES, errno.ENFILE: _FILES, errno.ENOMEM: _MEMORY}


def shortage(error: BaseException) -> str:
    """Return what a system that gives too little has to change; empty for any other error."""
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, OSError):
        return _BY_NUMBER.get(error.errno or 0, "")
    if isinstance(error, RuntimeError) or type(error).__name__ == _PANIC:
        if str(error) == _NO_THREAD:
            return _THREADS
        if told := _OF_RUST.search(str(error)):
            return (_BY_NUMBER | {errno.EAGAIN: _THREADS}).get(int(told[1]), "")
    return ""


def start_thread(thread: threading.Thread) -> None:
    """Start a thread unless it might die before it begins, for lack of memory.

    Then ``Thread.start`` would wait for it for ever, or return as if its work was under way.

    Raises:
        RuntimeError: The system refuses it, or has too little memory for it.
    """
    try:
        mmap.mmap(-1, max(threading.stack_size(), _STACK_BYTES) + _BEGINNING_BYTES).close()
    except OSError:
        raise RuntimeError(_NO_THREAD) from None
    thread.start()


def passes(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was made of, is of files or threads: trying again costs nobody anything.

    Memory is not among them: who tries again takes it from what serves.
    """
    while error is not None:
        if (isinstance(error, OSError) and error.errno in _FILE_NUMBERS) or _PASSING.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def shortages_named() -> Iterator[None]:
    """Turn an error of a system that gives too little into one line with the remedy.

    Raises:
        SettingsError: It gives too little.
    """
    try:
        yield
    except BaseException as error:
        if lacking := shortage(error):
            raise SettingsError(f"cannot start: {lacking}") from None
        raise
