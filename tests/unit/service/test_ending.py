from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import ending
from service.ending import interruptible, leave_on_signals, printing

ROOT = Path(__file__).parents[3]
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def told(number: signal.Signals, times: int, tidied: list[str]) -> Callable[[], int]:
    def run() -> int:
        try:
            signal.raise_signal(number)
            return 0
        finally:
            for _ in range(times - 1):
                signal.raise_signal(number)
            tidied.append("all")

    return run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("times", [1, 2])
def test_who_is_told_to_end_tidies_up_even_if_told_twice(
    number: signal.Signals, code: int, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `timeout` tells the command and then its group, and a terminal and its shell do."""
    tidied: list[str] = []
    leave_on_signals()
    assert interruptible("c", told(number, times, tidied)) == code
    assert tidied == ["all"]
    assert capsys.readouterr().err == f"c: ended by {number.name}\n"


def test_a_later_signal_cuts_the_tidying_short(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([5.0, 5.0 + ending._TWICE_SECONDS])
    monkeypatch.setattr("service.ending.time.monotonic", lambda: next(instants))
    tidied: list[str] = []
    leave_on_signals()
    assert interruptible("c", told(signal.SIGTERM, 2, tidied)) == 143
    assert tidied == []


def test_nohup_is_heeded() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    leave_on_signals()
    assert interruptible("c", told(signal.SIGHUP, 1, [])) == 0


def test_a_terminal_that_has_closed_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sys.stderr", Closed())
    leave_on_signals()
    assert interruptible("c", told(signal.SIGHUP, 1, [])) == 129


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_interpreter_ends_changes_nothing(number: signal.Signals) -> None:
    """What torch does then takes a while."""
    code = (
        "import atexit, signal, sys; from service.ending import interruptible, leave_on_signals\n"
        f"late = lambda: atexit.register(signal.raise_signal, {number:d}) and 7\n"
        "leave_on_signals(); sys.exit(interruptible('c', late))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (7, "")


@pytest.mark.parametrize(
    ("number", "line"),
    [(errno.EPIPE, ""), (errno.ENOSPC, "c: the output cannot be written: No space left on device\n")],
)
def test_output_that_nobody_takes_is_1_and_one_line_at_most(
    number: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(number, os.strerror(number))

    def fail() -> int:
        raise ValueError("of what could not be told")

    monkeypatch.setattr(ending, "_drop_output", lambda: None)
    monkeypatch.setattr("sys.stdout", Full())
    for run in (lambda: 0, fail):
        assert printing("c", run) == 1
        assert capsys.readouterr().err == line


def test_a_file_that_cannot_be_written_is_no_matter_of_the_output() -> None:
    def fail() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    with pytest.raises(OSError, match=r"model\.onnx"):
        printing("c", fail)
