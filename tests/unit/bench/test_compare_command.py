from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.compare import machine
from bench.profile import command as profile

ROOT = Path(__file__).resolve().parents[3]


def test_without_matplotlib_compare_names_itself_not_a_flag_that_nobody_gave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(["compare", "--client", "load"]) == 2
    assert capsys.readouterr().err == (
        "convserve-bench: compare needs matplotlib: pip install '.[bench]' in the checkout\n"
    )


@pytest.mark.parametrize("command", ["compare", "profile"])
def test_away_from_a_checkout_there_is_nothing_to_measure(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(profile, "find_samplers", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    out = tmp_path / "out"
    assert main([command, "--client", "load", "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"convserve-bench: {command} measures only a checkout: pip install --editable '.[cpu,fast,bench]' in it\n"
    )
    assert not out.exists()


def test_a_reader_who_leaves_is_no_fault() -> None:
    """As in ``convserve-bench compare --show text | head -1``."""
    shown = ["compare", "--out", "bench/results/2026-11-29-compare", "--show", "text"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "bench", *shown],
            cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_half_typed_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--round", "1"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --round 1" in capsys.readouterr().err
