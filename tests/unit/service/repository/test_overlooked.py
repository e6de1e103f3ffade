from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.repository.overlooked import Overlooked


def told(caplog: pytest.LogCaptureFixture, overlooked: Overlooked) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        overlooked.tell()
    return [record.fields["place"] for record in caplog.records]  # type: ignore[attr-defined]


def test_each_is_told_once_until_it_comes_back_or_another_reason_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overlooked = Overlooked(tmp_path)
    (tmp_path / "m" / "1").mkdir(parents=True)
    assert told(caplog, overlooked) == ["m/1"]
    assert told(caplog, overlooked) == []
    (tmp_path / "m" / "config.pbtxt").touch()
    assert told(caplog, overlooked) == ["m/config.pbtxt"]
    (tmp_path / "m" / "1" / "model.onnx").touch()
    assert told(caplog, overlooked) == []
    (tmp_path / "m" / "1" / "model.onnx").unlink()
    assert told(caplog, overlooked) == ["m/1"]


def test_a_repository_that_cannot_be_read_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overlooked = Overlooked(tmp_path / "models")
    assert told(caplog, overlooked) == []
    (tmp_path / "models" / "m").mkdir(parents=True)
    assert told(caplog, overlooked) == ["m"]
    (tmp_path / "models").rename(tmp_path / "gone")
    assert told(caplog, overlooked) == []
    (tmp_path / "gone").rename(tmp_path / "models")
    assert told(caplog, overlooked) == [], "a disk that comes back brings nothing new"
