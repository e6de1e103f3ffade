"""The interface of all data sets: labelled examples that can be selected, encoded and digested.

A reader only reads. This module decides what is held out, and by which seed, in the same way for every set.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from export.errors import DataInvalid

Indices = Sequence[int] | np.ndarray


class Split(ABC):
    """N labelled examples, in order.

    Attributes:
        labels: int64 (N,), each in [0, K).
    """

    labels: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    @abstractmethod
    def select(self, indices: Indices) -> Self:
        """Return the examples at these positions, in this order."""

    @abstractmethod
    def raw(self, index: int) -> bytes:
        """Return one example as a client would send it: an encoded picture, or a sentence in UTF-8."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """Return bytes that are equal if and only if two examples are equal apart from their labels."""

    @property
    def digest(self) -> str:
        """``sha256:`` and the digest of all examples and their labels, in order."""
        digest = hashlib.sha256()
        for index, label in enumerate(self.labels.tolist()):
            content = self.content(index)
            digest.update(f"{label} {len(content)} ".encode())
            digest.update(content)
        return "sha256:" + digest.hexdigest()


@dataclass(frozen=True, slots=True)
class DataSet:
    """A training set and the examples that are never trained on.

    Attributes:
        name: Name as manifests cite it.
        classes: K.
        train: Examples to learn from, including those that are still to be held out.
        test: Test examples, never trained on; None for a set without a test split.
        test_name: Name of the test split: ``"test"``, or e.g. ``"fold-0-of-10"``.
        held_out: The set's own examples for early stopping, which are not in ``train``. None if some
            of ``train`` are to be held out instead.
    """

    name: str
    classes: int
    train: Split
    test: Split | None
    test_name: str
    held_out: Split | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a reader finds a data set.

    Attributes:
        path: A folder or, if the reader supports it, a file.
        download: Whether the reader may download missing data.
    """

    path: Path
    download: bool = False


def with_fold(data: DataSet, fold: int, folds: int, seed: int) -> DataSet:
    """Hold out one fold as the test split of a set that has none.

    Folds are stratified by class. ``seed`` alone decides which example is in which fold.

    Raises:
        DataInvalid: The set has a test split, there is no such fold, or a class has fewer examples than folds.
    """
    if data.test is not None:
        raise DataInvalid(f"{data.name}: has a test split, and folds are for sets without one; use --seeds")
    if not 0 <= fold < folds or folds < 2:
        raise DataInvalid(
            f"{data.name}: fold {fold} of {folds} does not exist; expected 0 <= fold < folds, and at least 2 folds"
        )
    counts = np.bincount(data.train.labels, minlength=data.classes)
    if counts.min() < folds:
        raise DataInvalid(
            f"{data.name}: class {counts.argmin()} has {counts.min()} examples, "
            f"expected at least one for each of {folds} folds"
        )
    numbers = _stratified(data.train.labels, np.random.default_rng([seed, folds])) % folds
    train, test = (data.train.select(np.flatnonzero(mask)) for mask in (numbers != fold, numbers == fold))
    return DataSet(data.name, data.classes, train, test, f"fold-{fold}-of-{folds}")


def fold_of(test_name: str, folds: int) -> int | None:
    """Return the fold in a test split's name, or None for ``"test"``.

    Raises:
        DataInvalid: The name has another number of folds than ``folds``, so its examples differ.
    """
    match = re.fullmatch(r"fold-(\d+)-of-(\d+)", test_name)
    if match is None:
        return None
    if int(match[2]) != folds:
        raise DataInvalid(
            f"{test_name}: the recipe has {folds} folds; give the recipe of the training run with --recipe"
        )
    return int(match[1])


def divide(data: DataSet, share: float, seed: int) -> tuple[Split, Split]:
    """Return the training part and the held-out part for early stopping: the set's own if it has one.

    Raises:
        DataInvalid: There are too few examples for both.
    """
    return hold_out(data.train, share, seed) if data.held_out is None else (data.train, data.held_out)


def hold_out(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide a split into a training part and a held-out part for early stopping, by class and seed.

    Each class keeps at least one training example, so a class with a single example is not held out.

    Returns:
        The training part and the held-out part; each has at least one example.

    Raises:
        DataInvalid: There are too few examples for both.
    """
    ranks = _stratified(split.labels, np.random.default_rng([seed, 1]))
    counts = np.bincount(split.labels)
    held = ranks < np.minimum(np.maximum(1, np.round(counts * share)), counts - 1)[split.labels]
    if not held.any():
        raise DataInvalid(f"the training set of {len(split)} examples is too small to hold out any; add examples")
    return split.select(np.flatnonzero(~held)), split.select(np.flatnonzero(held))


def report(data: DataSet) -> str:
    """Describe a set in one line: sizes, class balance, and test examples that are also in the training set."""
    counts = np.bincount(data.train.labels, minlength=data.classes)
    line = f"{data.name}: {len(data.train)} training"
    if data.test is not None:
        train = {data.train.content(i) for i in range(len(data.train))}
        leaks = sum(data.test.content(i) in train for i in range(len(data.test)))
        line += f" and {len(data.test)} test examples ({data.test_name}), {leaks} of them also in the training set"
    else:
        line += " examples"
    return f"{line}; {data.classes} classes of {counts.min()} to {counts.max()} training examples"


def check_labels(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Return labels as int64 (N,).

    Raises:
        DataInvalid: There are no labels, or one is outside [0, classes); the message names its row, counted from 1.
    """
    if labels.ndim != 1 or labels.size == 0:
        raise DataInvalid(f"{where}: is empty, expected at least one example")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        row = int(wrong[0])
        raise DataInvalid(f"{where}, row {row + 1}: label {labels[row]} is out of range, expected 0 to {classes - 1}")
    return labels.astype(np.int64)


def _stratified(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each example's position in a random order of its class: int64 (N,)."""
    places = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        places[members] = np.arange(len(members))
    return places
