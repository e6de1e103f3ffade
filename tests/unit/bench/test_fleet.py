"""Client processes that are left alone: they end without a word."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest

from bench.load import fleet


@pytest.mark.parametrize("error", [EOFError, BrokenPipeError, ConnectionResetError])
def test_a_process_whose_plans_come_no_more_ends(error: type[Exception], monkeypatch: pytest.MonkeyPatch):
    class Gone:
        def send(self, word: object) -> None:
            assert word == "connected"

        def recv(self) -> object:
            raise error

    monkeypatch.setattr(fleet, "Sender", MagicMock())
    gone: Any = Gone()
    fleet._serve(gone, fleet.Work("127.0.0.1", 1, (), None))


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_a_process_that_was_killed_between_two_plans_is_told(error: type[Exception]):
    """Not taken for a reader of standard output who has left."""
    killed = MagicMock(send=MagicMock(side_effect=error))
    made = fleet.Fleet(fleet.Work("127.0.0.1", 1, (), None), 1)
    made._members = [(MagicMock(), killed)]
    with pytest.raises(fleet.FleetFailed, match="a client process ended unexpectedly"):
        made.run([MagicMock()])
    killed.recv.side_effect = error
    with pytest.raises(fleet.FleetFailed, match="a client process ended unexpectedly"):
        made._heard(killed)


def test_a_run_that_has_nothing_to_say_leaves_the_line_as_it_is(monkeypatch: pytest.MonkeyPatch):
    """As within compare, whose line stays until the next turn."""
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(fleet, "show", lambda *what: shown.append(what))
    made = fleet.Fleet(fleet.Work("127.0.0.1", 1, (), None), 1)
    made._members = [(MagicMock(), MagicMock())]
    plans: list[Any] = [MagicMock(seconds=4.0, drain_seconds=1.0)]

    def interrupted(_: float, tick: Callable[[], None] | None = None) -> None:
        if tick is not None:  # the plans are being carried out
            tick()
            raise KeyboardInterrupt

    monkeypatch.setattr(made, "_gather", interrupted)
    for doing in ("", "load on m"):
        with pytest.raises(KeyboardInterrupt):
            made.run(plans, doing)
    assert [(what[0], *what[2:]) for what in shown] == [("load on m", 4.0), ("",)], "cleared however it ends"


def test_ctrl_c_is_for_the_process_that_was_started_by_hand():
    before = signal.getsignal(signal.SIGINT)
    with fleet._deaf_to_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
