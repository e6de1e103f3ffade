from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from export.data import Source, divide
from export.data.sentences import read_phrases, read_sentences
from export.errors import DataInvalid


@pytest.fixture
def treebank(tmp_path: Path) -> Path:
    for name, rows in {"train": "0\tdull\n1\tfine\n", "dev": "1\twarm\n", "test": "0\tloud\n"}.items():
        (tmp_path / f"{name}.tsv").write_text(rows, encoding="utf-8")
    (tmp_path / "train_phrases.tsv.gz").write_bytes(gzip.compress(b"1\tso fine\n0\t.\n0\t--\n0\tvery dull\n"))
    return tmp_path


def test_phrases_with_a_word_are_trained_on_and_the_sets_own_part_is_held_out(treebank: Path) -> None:
    data = read_phrases(Source(treebank), "tree", ("bad", "good"))
    assert data.train.texts == ("dull", "fine", "so fine", "very dull")
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    train, held_out = divide(data, 0.5, seed=0)
    assert (len(train), held_out.texts) == (4, ("warm",))


def test_sentences_alone_know_the_held_out_part_too(treebank: Path) -> None:
    data = read_sentences(Source(treebank), "tree", ("bad", "good"))
    assert (len(data.train), len(data.test or ())) == (2, 1)
    assert data.held_out is not None


@pytest.mark.parametrize("name", ["dev.tsv", "train_phrases.tsv.gz"])
def test_a_missing_part_is_named(treebank: Path, name: str) -> None:
    (treebank / name).unlink()
    with pytest.raises(DataInvalid, match=r"holds no .*, which reader 'phrases' needs"):
        read_phrases(Source(treebank), "tree", ("bad", "good"))


def test_a_damaged_archive_is_named(treebank: Path) -> None:
    (treebank / "train_phrases.tsv.gz").write_bytes(b"nothing")
    with pytest.raises(DataInvalid, match="cannot be read"):
        read_phrases(Source(treebank), "tree", ("bad", "good"))
