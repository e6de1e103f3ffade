"""How a command ends that is interrupted, or whose output nobody takes: with an exit code, and one line at most."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what writing to standard output can end with
_TWICE_SECONDS = 1.0  # `timeout` and a terminal that closes send a signal twice, which must not cut the tidying short


class _Ended(SystemExit):
    """A signal has come; the code is 128 and its number, as shells count."""


def interruptible(name: str, run: Callable[[], int]) -> int:
    """Run a command; return its exit code, or 130 after Ctrl-C and what :func:`leave_on_signals` says, with a line.

    A signal that comes while the interpreter ends changes nothing any more.
    """
    try:
        return run()
    except KeyboardInterrupt:
        _tell(f"{name}: interrupted")
        return 128 + signal.SIGINT
    except _Ended as ended:
        _tell(f"{name}: ended by {signal.Signals(ended.args[0] - 128).name}")
        return int(ended.args[0])
    finally:
        atexit.register(_ignore_signals)  # as the last it is called first: torch's would be interrupted, and show where


def leave_on_signals() -> None:
    """Let SIGTERM and SIGHUP leave through all context managers, with exit codes 143 and 129.

    Otherwise temporary folders would stay, and processes that were started would go on.
    """
    last = -_TWICE_SECONDS

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= _TWICE_SECONDS:
            raise _Ended(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, leave)


def printing(name: str, run: Callable[[], int]) -> int:
    """Run what prints; return its exit code, or 1 if the output cannot be written, with a line.

    There is no line if whoever reads has left, as `head` does.
    """
    try:
        try:
            return run()
        finally:
            if sys.stdout is not None:  # as where a shell has closed it
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        _drop_output()
        _tell(f"{name}: the output cannot be written: {error.strerror}")
    return 1


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _drop_output() -> None:
    """Let Python's last flush not complain of what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # such as that of a terminal that has closed
        sys.stderr.write(f"{line}\n")
