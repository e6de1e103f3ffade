"""Reads word vectors made elsewhere, one word at a time, or makes vectors from the training text.

Letters: V words of the vocabulary, D dimensions.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch

from export.errors import DataInvalid

OWN = "own"  # given instead of a file: make vectors from the training text
_LONGEST_WORD = 4096  # bytes; a longer word means that the file has another format
_WINDOW = 5  # tokens on each side that count as neighbours of a word


@dataclass(frozen=True, slots=True)
class WordVectors:
    """Vectors of some of a vocabulary's words.

    Attributes:
        rows: float32 (D,) by token id.
        source: The file's name, or how the vectors were made.
        words: V, without padding and the unknown word.
    """

    rows: dict[int, torch.Tensor]
    source: str
    words: int

    def __str__(self) -> str:
        """Return source and coverage."""
        share = len(self.rows) / max(1, self.words)
        return f"{self.source}: vectors for {len(self.rows)} of {self.words} words ({share:.1%})"


def read_vectors(path: Path, ids: Mapping[str, int]) -> WordVectors:
    """Read the vectors of a vocabulary's words. Vectors of other words are skipped and never kept in memory.

    Supports word2vec's binary format (``.bin``) and text with a word and D numbers per line: GloVe's,
    or word2vec's and fastText's with ``V D`` in the first line. Each may be compressed (``.gz``).
    If a word occurs more than once, its first vector counts.

    Args:
        path: The file.
        ids: Token ids by word, without padding and the unknown word.

    Raises:
        DataInvalid: The file is missing or damaged; the message names the line or the word's number.
    """
    is_binary = ".bin" in path.suffixes
    rows: dict[int, torch.Tensor] = {}
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            for word, vector in (_binary if is_binary else _text)(file, path, ids):
                number = ids.get(word)
                if number is not None and number not in rows:
                    rows[number] = vector
    except (OSError, EOFError, zlib.error) as error:
        raise DataInvalid(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return WordVectors(rows, path.name, len(ids))


def make_vectors(sentences: Sequence[np.ndarray], words: int, first_id: int, dimensions: int) -> WordVectors:
    """Make vectors from the training text alone: the singular vectors of positive pointwise mutual information.

    They contain no more than the training sentences do. So they show that initial vectors work, but not
    how good the vectors of a large corpus are.

    Args:
        sentences: Token ids, each int64 (L,).
        words: V.
        first_id: Ids below it (padding, unknown) get no vector.
        dimensions: D, below V.

    Source:
        Levy and Goldberg (2014), "Neural Word Embedding as Implicit Matrix Factorization".
    """
    size = first_id + words
    pairs = np.concatenate([_pairs(sentence, size) for sentence in sentences])
    cells, counts = np.unique(pairs, return_counts=True)
    left, right = cells // size, cells % size
    totals = np.bincount(left, counts, size)
    information = np.log(counts * counts.sum() / (totals[left] * totals[right]))
    kept = (information > 0) & (left >= first_id) & (right >= first_id)
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([left[kept], right[kept]])),
        torch.from_numpy(information[kept].astype(np.float32)),
        (size, size),
        check_invariants=False,
    ).coalesce()
    rank = min(dimensions, size)
    u, s, _ = torch.svd_lowrank(matrix, q=rank, niter=4)
    vectors = torch.zeros(size, dimensions)
    vectors[:, :rank] = u * s.sqrt()
    vectors *= 0.25 / vectors[first_id:].std().clamp_min(1e-12)  # the same scale as random vectors
    seen = np.unique(left[kept])
    rows = {int(number): vectors[number].clone() for number in seen}
    return WordVectors(rows, "own vectors (PPMI and SVD of the training text)", words)


def _pairs(sentence: np.ndarray, size: int) -> np.ndarray:
    """Return every pair of a word and a neighbour within the window, in both orders, each as one number."""
    found = [np.empty(0, dtype=np.int64)]
    for distance in range(1, _WINDOW + 1):
        one, other = sentence[:-distance], sentence[distance:]
        found += [one * size + other, other * size + one]
    return np.concatenate(found)


def _binary(file: BinaryIO, path: Path, ids: Mapping[str, int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield words of word2vec's binary format: ``V D``, then a word, a space and D little-endian float32."""
    try:
        count, dimensions = map(int, file.readline(_LONGEST_WORD).split())
    except ValueError:
        raise DataInvalid(f"{path}: expected the numbers of words and dimensions in the first line") from None
    if count < 1 or not 1 <= dimensions <= _LONGEST_WORD:
        raise DataInvalid(
            f"{path}: claims {count} words of {dimensions} dimensions, "
            f"expected at least 1 of 1 to {_LONGEST_WORD} dimensions"
        )
    for number in range(1, count + 1):
        word = _word(file, f"{path}, word {number} of {count}")
        data = file.read(4 * dimensions)
        if len(data) < 4 * dimensions:
            raise DataInvalid(f"{path}, word {number} of {count}: the file ends within the vector")
        if word in ids:
            yield word, torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))


def _word(file: BinaryIO, where: str) -> str:
    """Read up to the next space. Some writers put a line end after each vector, others do not."""
    word = bytearray()
    while (byte := file.read(1)) != b" ":
        if not byte or len(word) > _LONGEST_WORD:
            raise DataInvalid(f"{where}: {'the file ends' if not byte else 'the word is too long'}")
        word += byte
    return word.lstrip(b"\n").decode(errors="replace")


def _text(file: BinaryIO, path: Path, ids: Mapping[str, int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield words of a text file. Vectors of words outside the vocabulary are not parsed."""
    dimensions = 0
    for row, line in enumerate(file, start=1):
        parts = line.decode(errors="replace").rstrip().split(" ")
        if row == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
            continue  # V D
        dimensions = dimensions or len(parts) - 1
        if len(parts) - 1 < max(1, dimensions):
            raise DataInvalid(f"{path}, line {row}: has {len(parts) - 1} numbers, expected {max(1, dimensions)}")
        word = " ".join(parts[:-dimensions])  # a few of GloVe's words contain spaces
        if word in ids:
            try:
                yield word, torch.tensor([float(part) for part in parts[-dimensions:]])
            except ValueError:
                raise DataInvalid(f"{path}, line {row}: has a value that is not a number") from None
