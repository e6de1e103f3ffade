from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.repository.watcher import Watcher


def watcher_of(root: Path) -> Watcher:
    return Watcher(None, root, 1.0, pytest.fail)  # type: ignore[arg-type]


def told(caplog: pytest.LogCaptureFixture, watcher: Watcher) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        watcher.tell()
    return [record.fields["place"] for record in caplog.records]  # type: ignore[attr-defined]


def test_each_is_told_once_until_it_comes_back_or_another_reason_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = watcher_of(tmp_path)
    (tmp_path / "m" / "1").mkdir(parents=True)
    assert told(caplog, watcher) == ["m/1"]
    assert told(caplog, watcher) == []
    (tmp_path / "m" / "config.pbtxt").touch()
    assert told(caplog, watcher) == ["m/config.pbtxt"]
    (tmp_path / "m" / "1" / "model.onnx").touch()
    assert told(caplog, watcher) == []
    (tmp_path / "m" / "1" / "model.onnx").unlink()
    assert told(caplog, watcher) == ["m/1"]


def test_a_repository_that_cannot_be_read_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watcher = watcher_of(tmp_path / "models")
    assert told(caplog, watcher) == []
    (tmp_path / "models" / "m").mkdir(parents=True)
    assert told(caplog, watcher) == ["m"]
    (tmp_path / "models").rename(tmp_path / "gone")
    assert told(caplog, watcher) == []
    (tmp_path / "gone").rename(tmp_path / "models")
    assert told(caplog, watcher) == [], "a disk that comes back brings nothing new"
