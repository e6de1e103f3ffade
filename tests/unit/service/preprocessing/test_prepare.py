from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidInput, ManifestInvalid
from service.preprocessing.image import ImageLimits
from service.preprocessing.prepare import Preparer
from tests.unit.service.samples import IMAGE, TEXT, picture, text_spec, tokenizer

PIXELS = [[0, 10, 20], [30, 40, 255]]


def test_a_picture_becomes_a_row_and_rows_a_batch() -> None:
    preparer = Preparer(IMAGE, Path("nowhere"))
    row = preparer.row(picture(PIXELS))
    assert row[..., 0].tolist() == PIXELS
    assert preparer.stack([row, row]).shape == (2, 2, 3, 1)
    preparer.check(np.zeros((1, 2, 3, 1), np.uint8))


def test_limits_reach_the_decoder() -> None:
    with pytest.raises(InvalidInput, match="expected at most 10"):
        Preparer(IMAGE, Path("nowhere"), ImageLimits(max_bytes=10)).row(picture(PIXELS))


def test_text_in_place_of_a_picture_is_refused() -> None:
    with pytest.raises(InvalidInput, match="of no known format"):
        Preparer(IMAGE, Path("nowhere")).row("a sentence")


def test_a_sentence_becomes_a_row_and_rows_a_padded_batch(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    preparer = Preparer(text_spec(padding_id=3), tmp_path)
    rows = [preparer.row("good film"), preparer.row(b"film")]
    assert preparer.stack(rows).tolist() == [[2, 4], [4, 3]]
    with pytest.raises(InvalidInput, match="expected 0 to 4"):
        preparer.check(np.array([[5]]))


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestInvalid, match=r"tokenizer\.json"):
        Preparer(TEXT, tmp_path)
