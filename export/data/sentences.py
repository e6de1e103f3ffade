"""Labelled sentences from ``label<TAB>text`` files, one example per line."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.data.base import DataSet, Indices, Source, Split
from export.errors import DataInvalid

# Files that are looked for in a folder, in this order.
_WHOLE = ("all.tsv", "{name}.tsv", "{name}/all.tsv")
_TRAIN, _HELD_OUT, _TEST = "train.tsv", "dev.tsv", "test.tsv"
_WORD = re.compile("[A-Za-z0-9]")
_PHRASES = ("train_phrases.tsv", "train_phrases.tsv.gz")


class Sentences(Split):
    """Sentences in memory."""

    def __init__(self, texts: Sequence[str], labels: np.ndarray) -> None:
        """Keep both; they must have the same N."""
        self.texts = tuple(texts)
        self.labels = labels

    def select(self, indices: Indices) -> Sentences:
        """See :class:`Split`."""
        return Sentences([self.texts[i] for i in indices], self.labels[indices])

    def raw(self, index: int) -> bytes:
        """Encode one sentence as UTF-8."""
        return self.texts[index].encode()

    def content(self, index: int) -> bytes:
        """Return the sentence in UTF-8."""
        return self.texts[index].encode()


def read_sentences(source: Source, name: str, labels: Sequence[str]) -> DataSet:
    """Read sentences from a TSV file, or from a folder.

    A folder contains ``train.tsv``, ``test.tsv`` and optionally ``dev.tsv`` (the held-out part), or a
    single file: ``all.tsv``, ``<name>.tsv`` or ``<name>/all.tsv``.

    Raises:
        DataInvalid: The data are missing or invalid; the message names the file and, if any, the row.
    """
    path, classes = source.path, len(labels)
    if path.is_file():
        return DataSet(name, classes, _read_tsv(path, classes), None, "")
    if not path.exists():
        raise DataInvalid(f"{path}: no such file; expected a TSV file with label<TAB>text, or a folder with one")
    if (path / _TRAIN).is_file() and (path / _TEST).is_file():
        train, test = (_read_tsv(path / split, classes) for split in (_TRAIN, _TEST))
        held_out = _read_tsv(path / _HELD_OUT, classes) if (path / _HELD_OUT).is_file() else None
        return DataSet(name, classes, train, test, "test", held_out)
    candidates = [path / pattern.format(name=name) for pattern in _WHOLE]
    for candidate in candidates:
        if candidate.is_file():
            return DataSet(name, classes, _read_tsv(candidate, classes), None, "")
    raise DataInvalid(
        f"{path}: holds no sentences; expected {_TRAIN} and {_TEST}, "
        f"or one of {', '.join(str(candidate.relative_to(path)) for candidate in candidates)}"
    )


def read_phrases(source: Source, name: str, labels: Sequence[str]) -> DataSet:
    """Read a treebank: sentences, and labelled phrases of the training sentences, which are trained on as well.

    The folder contains ``train.tsv``, ``dev.tsv``, ``test.tsv`` and ``train_phrases.tsv``, or the last
    compressed as ``.gz``.

    Raises:
        DataInvalid: The data are missing or invalid; the message names the file and, if any, the row.
    """
    path, classes = source.path, len(labels)
    phrases = next((path / file for file in _PHRASES if (path / file).is_file()), None)
    missing = [file for file in (_TRAIN, _HELD_OUT, _TEST) if not (path / file).is_file()]
    if phrases is None or missing:
        raise DataInvalid(f"{path}: holds no {(missing or _PHRASES)[0]}, which reader 'phrases' needs")
    parts = [_read_tsv(file, classes) for file in (path / _TRAIN, phrases)]
    # A treebank also labels full stops and dashes, of which cleaning would leave no word.
    parts[1] = parts[1].select([row for row, text in enumerate(parts[1].texts) if _WORD.search(text)])
    train = Sentences([*parts[0].texts, *parts[1].texts], np.concatenate([part.labels for part in parts]))
    held_out, test = (_read_tsv(path / split, classes) for split in (_HELD_OUT, _TEST))
    return DataSet(name, classes, train, test, "test", held_out)


def _read_tsv(path: Path, classes: int) -> Sentences:
    """Read one file. Lines end only at LF: some texts contain other characters that Unicode treats as line ends."""
    texts: list[str] = []
    labels: list[int] = []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for row, line in enumerate(file, start=1):
                label, text = _parse_row(line, classes, f"{path}, row {row}")
                labels.append(label)
                texts.append(text)
    except (OSError, EOFError, zlib.error) as error:
        raise DataInvalid(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not texts:
        raise DataInvalid(f"{path}: is empty, expected at least one example")
    return Sentences(texts, np.array(labels, dtype=np.int64))


def _parse_row(line: bytes, classes: int, where: str) -> tuple[int, str]:
    try:
        # Not a CSV reader, because quotation marks are part of the text.
        columns = line.decode().rstrip("\r\n").split("\t", 1)
    except UnicodeDecodeError:
        raise DataInvalid(f"{where}: is not UTF-8") from None
    if len(columns) < 2:
        raise DataInvalid(f"{where}: has one column, expected label<TAB>text")
    try:
        label = int(columns[0])
    except ValueError:
        raise DataInvalid(f"{where}: label {columns[0]!r} is not an integer") from None
    if not 0 <= label < classes:
        raise DataInvalid(f"{where}: label {label} is out of range, expected 0 to {classes - 1}")
    if not columns[1].strip():
        raise DataInvalid(f"{where}: the text is empty")
    return label, columns[1]
