"""What ``convserve-bench load`` leaves behind where its output cannot be written; nothing is sent."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.cli import main
from bench.load import command, report
from bench.load.records import Records, Run

ARGUMENTS = ["load", "127.0.0.1:1", "--model=m", "--rate=1", "--warm-up-seconds=0"]


@pytest.fixture(autouse=True)
def one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = np.zeros(1)
    records = Records(instants, instants, instants + 0.01, np.zeros(1, dtype=int), np.zeros(1, dtype=bool))
    session = SimpleNamespace(server="server 1", facts={"settings": {}})
    monkeypatch.setattr(command, "open_session", lambda flags: session)
    monkeypatch.setattr(command, "_sent", lambda *_: Run(records, 0.0))


def test_a_reader_who_leaves_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def leave(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "table", leave)
    monkeypatch.setattr("service.ending._drop_output", lambda: None)
    file, picture = tmp_path / "result.json", tmp_path / "result.png"
    assert main([*ARGUMENTS, f"--json={file}", f"--plot={picture}"]) == 1
    assert json.loads(file.read_text())["summary"]["offered"] == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("full", ["json", "plot"])
def test_a_result_that_cannot_be_written_costs_no_other(full: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "result"
    other = "plot" if full == "json" else "json"
    assert main([*ARGUMENTS, f"--{full}=/dev/full", f"--{other}={file}"]) == 2
    assert capsys.readouterr().err == "convserve-bench: /dev/full: No space left on device; give another file\n"
    assert file.stat().st_size > 0
