from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.data import DataSet, report, with_fold
from export.data.base import fold_of, hold_out
from export.data.sentences import Sentences
from export.errors import DataInvalid


def _data(per_class: tuple[int, ...] = (30, 20)) -> DataSet:
    labels = np.repeat(np.arange(len(per_class)), per_class)
    split = Sentences([f"sentence {i}" for i in range(len(labels))], labels)
    return DataSet("mine", len(per_class), split, None, "")


def _texts(data: DataSet) -> tuple[set[str], set[str]]:
    assert isinstance(data.train, Sentences)
    assert isinstance(data.test, Sentences)
    return set(data.train.texts), set(data.test.texts)


@given(st.integers(0, 1000), st.integers(2, 10))
def test_folds_are_disjoint_and_cover_the_set(seed: int, folds: int) -> None:
    data = _data()
    tests = []
    for fold in range(folds):
        train, test = _texts(with_fold(data, fold, folds, seed))
        assert not train & test
        assert len(train | test) == 50
        tests += list(test)
    assert len(tests) == len(set(tests)) == 50


def test_folds_are_balanced_and_fixed_by_the_seed() -> None:
    one, again, other = (with_fold(_data(), 3, 10, seed) for seed in (7, 7, 8))
    assert one.test is not None
    assert np.bincount(one.test.labels).tolist() == [3, 2]
    assert _texts(one) == _texts(again) != _texts(other)
    assert one.test_name == "fold-3-of-10"


def test_a_split_tells_its_fold() -> None:
    assert fold_of(with_fold(_data(), 3, 10, 0).test_name, 10) == 3
    assert fold_of("test", 10) is None
    with pytest.raises(DataInvalid, match=r"fold-3-of-10: the recipe has 4 folds; give the recipe of the training"):
        fold_of("fold-3-of-10", 4)


def test_a_fold_that_cannot_be_is_refused() -> None:
    with pytest.raises(DataInvalid, match=r"mine: fold 10 of 10 does not exist"):
        with_fold(_data(), 10, 10, 0)
    with pytest.raises(DataInvalid, match=r"mine: class 1 has 4 examples, expected at least one for each of 5 folds"):
        with_fold(_data((9, 4)), 0, 5, 0)
    divided = with_fold(_data(), 0, 10, 0)
    with pytest.raises(DataInvalid, match=r"mine: has a test split, .*; use --seeds"):
        with_fold(divided, 0, 10, 0)


@given(st.integers(0, 1000), st.floats(0.01, 0.9))
def test_the_held_out_part_is_apart_and_has_every_class(seed: int, share: float) -> None:
    split = _data().train
    assert isinstance(split, Sentences)
    train, held_out = hold_out(split, share, seed)
    assert not set(train.texts) & set(held_out.texts)
    assert len(train) + len(held_out) == 50
    assert set(held_out.labels.tolist()) == {0, 1}


def test_too_few_examples_to_hold_out() -> None:
    with pytest.raises(DataInvalid, match="the training set of 2 examples is too small to hold out any"):
        hold_out(_data((1, 1)).train, 0.5, 0)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_each_class_keeps_an_example_to_be_trained_on(share: float) -> None:
    train, held_out = hold_out(_data((10, 1, 2)).train, share, 0)
    assert set(train.labels.tolist()) == {0, 1, 2}
    assert set(held_out.labels.tolist()) == {0, 2}


def test_a_class_without_examples_is_no_obstacle() -> None:
    split = Sentences([str(i) for i in range(8)], np.array([0, 2] * 4))
    train, held_out = hold_out(split, 0.25, 0)
    assert (len(train), len(held_out)) == (6, 2)


def test_the_report_counts_balance_and_leaks() -> None:
    train = Sentences(["a", "b", "c"], np.array([0, 0, 1]))
    test = Sentences(["b", "d"], np.array([0, 1]))
    line = report(DataSet("mine", 2, train, test, "test"))
    assert line == (
        "mine: 3 training and 2 test examples (test), 1 of them also in the training set; "
        "2 classes of 1 to 2 training examples"
    )
    assert report(DataSet("mine", 2, train, None, "")).startswith("mine: 3 training examples; ")


def test_a_digest_depends_on_texts_labels_and_order() -> None:
    def digest(texts: list[str], labels: list[int]) -> str:
        return Sentences(texts, np.array(labels)).digest

    digests = {digest(["ab", "c"], [0, 1]), digest(["a", "bc"], [0, 1]), digest(["ab", "c"], [1, 0]),
               digest(["c", "ab"], [1, 0])}  # fmt: skip
    assert len(digests) == 4
    assert digest(["ab", "c"], [0, 1]) in digests
