from __future__ import annotations

import io
import sys

import pytest

from bench.progress import show


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Take the place of standard error; a fixture would be undone by pytest's own capture."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    return terminal


def test_a_terminal_shows_what_goes_on_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    show("load on m", 2, 4)
    show("load on m: more")
    show("")
    said = terminal.getvalue()
    assert "load on m: more" in said
    last = said[said.rindex("load on m: more") :]
    assert 0 < last.count("━") < 40  # half of a bar of 40 is drawn, and stays so while only the words change
    assert said.endswith("\x1b[2K")  # and nothing is left of it


def test_what_comes_after_an_end_is_shown_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    show("one", 1, 1)
    show("")
    show("two")
    show("")
    assert "two" in terminal.getvalue()


@pytest.mark.parametrize("stderr", [io.StringIO(), None])
def test_what_is_no_terminal_gets_none_of_it(stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    show("doing")
    show("")
    assert stderr is None or stderr.getvalue().strip() == ""


def test_without_rich_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich", None)
    show("doing")
    show("")
    assert terminal.getvalue() == ""
