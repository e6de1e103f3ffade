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


def test_a_reader_who_leaves_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def leave(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    instants = np.zeros(1)
    records = Records(instants, instants, instants, np.zeros(1, dtype=int), np.zeros(1, dtype=bool))
    session = SimpleNamespace(server="server 1", facts={"settings": {}})
    monkeypatch.setattr(command, "open_session", lambda flags: session)
    monkeypatch.setattr(command, "_sent", lambda *_: Run(records, 0.0))
    monkeypatch.setattr(report, "table", leave)
    monkeypatch.setattr("bench.cli._drop_output", lambda: None)
    file = tmp_path / "result.json"
    arguments = ["load", "127.0.0.1:1", "--model=m", "--rate=1", "--warm-up-seconds=0", f"--json={file}"]
    assert main(arguments) == 1
    assert json.loads(file.read_text())["summary"]["offered"] == 1
