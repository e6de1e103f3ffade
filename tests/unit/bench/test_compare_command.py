from __future__ import annotations

import importlib.util

import pytest

from bench.cli import main


def test_without_matplotlib_compare_names_itself_not_a_flag_that_nobody_gave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(["compare", "--client", "load"]) == 2
    assert capsys.readouterr().err == (
        "convserve-bench: compare needs matplotlib: pip install '.[bench]' in the checkout\n"
    )


def test_a_half_typed_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--round", "1"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --round 1" in capsys.readouterr().err
