from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from export import cli
from export.data.inputs import PictureInputs
from export.report import find_mistakes


class Table:
    """A model that answers row i of a table to the picture whose first pixel is i."""

    def __init__(self, rows: list[list[float]]) -> None:
        self._rows = np.array(rows)

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        return self._rows[inputs[:, 0, 0, 0]]


def test_the_most_confident_mistakes_come_first() -> None:
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    model = Table([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    mistakes = find_mistakes(model, PictureInputs(images), np.array([0, 1, 1, 1]), 2)
    assert mistakes.worst.tolist() == [3, 1]
    assert mistakes.confusion.tolist() == [[1, 0], [2, 1]]
    assert mistakes.confidences.tolist() == [0.9, 0.6, 0.8, 0.7]


def test_a_run_of_pictures_is_drawn(picture_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(picture_run, tmp_path / "run")
    assert cli.main(["report", str(run)]) == 0
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        assert (run / "report" / name).read_bytes().startswith(b"\x89PNG")
        assert name in page
    assert "of 50 (" in page


def test_a_run_of_sentences_shows_them(sentence_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(sentence_run, tmp_path / "run")
    assert cli.main(["report", str(run)]) == 0
    assert "<th>sentence</th>" in (run / "report" / "report.html").read_text(encoding="utf-8")


def test_without_matplotlib_it_says_what_to_install(
    picture_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["report", str(picture_run)]) == 2
    assert "a report needs matplotlib; pip install '.[export]'" in capsys.readouterr().err
