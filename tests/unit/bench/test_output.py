from __future__ import annotations

import io
import os
import shutil

import pytest

from bench.output import show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_on_one_line_what_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((10, 24)))
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    show("more than fits")
    show("")
    assert terminal.getvalue() == "\r\x1b[Kmore than\r\x1b[K"


@pytest.mark.parametrize("stderr", [io.StringIO(), None])
def test_what_is_no_terminal_gets_none_of_it(stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr", stderr)
    show("doing")
    assert stderr is None or stderr.getvalue() == ""
