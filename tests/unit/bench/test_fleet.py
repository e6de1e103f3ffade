"""Client processes that are left alone: they end without a word."""

from __future__ import annotations

import signal
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


def test_ctrl_c_is_for_the_process_that_was_started_by_hand():
    before = signal.getsignal(signal.SIGINT)
    with fleet._deaf_to_ctrl_c():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
