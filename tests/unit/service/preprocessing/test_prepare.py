from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidInput, ManifestInvalid
from service.preprocessing.image import ImageLimits
from service.preprocessing.prepare import Preparer
from service.spec import ImageSpec
from tests.unit.service.samples import IMAGE, TEXT, encoded, image_spec, picture, text_spec, tokenizer

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
    with pytest.raises(InvalidInput, match="of an unknown format"):
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


QUICK = image_spec(height=28, width=28)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_is_small_is_quick_and_the_same_row(kind: str) -> None:
    preparer = Preparer(QUICK, Path("nowhere"))
    data = encoded(Image.linear_gradient("L").resize((64, 64)), kind)
    row = preparer.quick_row(memoryview(data))
    assert row is not None
    assert np.array_equal(row, preparer.row(data))


@pytest.mark.parametrize(
    ("data", "spec"),
    [
        (encoded(Image.new("L", (65, 64)), "JPEG"), QUICK),
        (encoded(Image.new("L", (64, 65))), QUICK),
        (encoded(Image.new("L", (8, 40))), QUICK),
        (encoded(Image.new("L", (8, 8)), "JPEG", comment=bytes(20_000)), QUICK),
        (encoded(Image.new("L", (8, 8)), "GIF"), QUICK),
        (b"broken", QUICK),
        ("a sentence", QUICK),
        (encoded(Image.new("L", (8, 8))), image_spec(height=65, width=64)),
    ],
    ids=["JPEG", "PNG", "narrow", "many bytes", "of unknown size", "broken", "text", "for a larger input"],
)
def test_what_may_take_longer_is_not_begun(data: bytes | str, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.preprocessing.image.load", lambda *_arguments: pytest.fail("begun"))
    assert Preparer(spec, Path("nowhere")).quick_row(data) is None


def test_a_small_picture_that_is_damaged_is_refused_at_once() -> None:
    whole = encoded(Image.linear_gradient("L").resize((64, 64)), "JPEG")
    with pytest.raises(InvalidInput, match="damaged or truncated"):
        Preparer(QUICK, Path("nowhere")).quick_row(whole[: len(whole) - 40])


def test_a_short_sentence_is_quick(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    preparer = Preparer(TEXT, tmp_path)
    row = preparer.quick_row("good film")
    assert row is not None
    assert row.tolist() == [2, 4]
    assert preparer.quick_row("film " * 5_000) is None
