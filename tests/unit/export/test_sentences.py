from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.data import Source, open_data
from export.data.inputs import Preprocessing
from export.data.sentences import Sentences
from export.errors import DataInvalid
from export.recipe import find_recipe
from tests.unit.export.samples import tiny_recipe

RECIPE = find_recipe("textcnn-mr")


def _open(path: Path) -> Sentences:
    split = open_data(RECIPE, Source(path)).train
    assert isinstance(split, Sentences)
    return split


def test_quotes_tabs_in_the_text_and_odd_line_ends_are_text(tmp_path: Path) -> None:
    path = tmp_path / "all.tsv"
    path.write_bytes('1\t"a\n0\tb " c\td\n1\te\u0085f\u2028g\r\n'.encode())
    assert _open(path).texts == ('"a', 'b " c\td', "e\u0085f\u2028g")
    assert _open(tmp_path).labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", ["all.tsv", "mr.tsv", "mr/all.tsv"])
def test_a_folder_is_searched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("0\tx\n1\ty\n")
    assert _open(tmp_path).texts == ("x", "y")


def test_a_folder_with_both_splits_has_a_test_split(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("0\ta\n1\tb\n")
    (tmp_path / "test.tsv").write_text("1\tc\n")
    data = open_data(RECIPE, Source(tmp_path))
    assert data.test is not None
    assert data.test.raw(0) == b"c"
    assert data.test_name == "test"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0\ta\n1 b\n", ", row 2: has one column, expected label<TAB>text"),
        (b"0\ta\n\n", ", row 2: has one column, expected label<TAB>text"),
        (b"0\ta\n1\tb\n2\tc\n", ", row 3: label 2 is out of range, expected 0 to 1"),
        (b"pos\ta\n", ", row 1: label 'pos' is not an integer"),
        (b"0\ta\n1\t  \n", ", row 2: the text is empty"),
        (b"", ": is empty, expected at least one example"),
        (b"0\ta\n1\t\xff\n", ", row 2: is not UTF-8"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "all.tsv"
    path.write_bytes(content)
    with pytest.raises(DataInvalid) as caught:
        _open(path)
    assert str(caught.value) == f"{path}{message}"


def test_no_such_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid) as caught:
        _open(tmp_path / "gone.tsv")
    assert str(caught.value).startswith(f"{tmp_path}/gone.tsv: no such file; expected a TSV file with label<TAB>text")
    with pytest.raises(DataInvalid) as caught:
        _open(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds no sentences; expected train.tsv and test.tsv, or one of all.tsv, mr.tsv, mr/all.tsv"
    )


def test_a_sentence_without_a_word_is_named() -> None:
    split = Sentences(["a fine film", "a dull film", "* * *"], np.array([1, 0, 0]))
    preprocessing = Preprocessing.fit(tiny_recipe("textcnn-mr"), split)
    with pytest.raises(DataInvalid) as caught:
        preprocessing.inputs(split)
    assert str(caught.value) == "sentence 3 ('* * *'): sentence has no tokens, expected at least one word"
