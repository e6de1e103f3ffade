"""Turns examples into a network's input tensors with the server's own preprocessing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from export.architectures import Sizes
from export.data.base import Indices, Split
from export.data.golden import golden_raw
from export.data.pictures import Pictures
from export.data.sentences import Sentences
from export.data.vocabulary import build_tokenizer
from export.data.word_vectors import OWN, WordVectors, make_vectors, read_vectors
from export.errors import DataInvalid
from export.recipe import Recipe, TextRecipe
from service.errors import InvalidInput
from service.preprocessing import image, text
from service.spec import ImageSpec, TextSpec

_NOISE = 16  # pictures of noise that are compared besides the golden ones
_OF_ITS_WORDS = 16  # sentences of a tokenizer's own words
_LONGEST = 160  # of these, in tokens


class Inputs(Protocol):
    """N inputs of a network, in the order of a split.

    Attributes:
        lengths: int64 (N,); batches of similar length need little padding. None if all lengths are equal.
    """

    lengths: np.ndarray | None

    def __len__(self) -> int:
        """N."""
        ...

    def batch(self, indices: Indices) -> np.ndarray:
        """Return these inputs as one array: uint8 (n, H, W, C), or int64 (n, longest)."""
        ...


class PictureInputs:
    """Pictures in memory: uint8 (N, H, W, C)."""

    lengths: np.ndarray | None = None

    def __init__(self, images: np.ndarray) -> None:
        """Keep the array."""
        self._images = images

    def __len__(self) -> int:
        """N."""
        return len(self._images)

    def batch(self, indices: Indices) -> np.ndarray:
        """See :class:`Inputs`."""
        return self._images[indices]


class TokenInputs:
    """Token ids of different lengths, padded per batch."""

    lengths: np.ndarray | None

    def __init__(self, rows: list[np.ndarray], padding_id: int) -> None:
        """Keep the rows."""
        self.rows = rows
        self._padding_id = padding_id
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def batch(self, indices: Indices) -> np.ndarray:
        """See :class:`Inputs`."""
        return text.pad([self.rows[i] for i in indices], self._padding_id)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Turns examples into inputs: the preprocessing spec and, for sentences, the tokenizer."""

    spec: ImageSpec | TextSpec
    tokenizer: Tokenizer | None

    @classmethod
    def fit(cls, recipe: Recipe, train: Split) -> Preprocessing:
        """Build the vocabulary of sentences from the training part; pictures need nothing."""
        if isinstance(recipe.preprocessing, TextRecipe):
            assert isinstance(train, Sentences)
            rules = recipe.preprocessing
            return cls(recipe.spec, build_tokenizer(train.texts, rules.cleaning, rules.min_count))
        return cls(recipe.spec, None)

    @classmethod
    def from_dir(cls, spec: ImageSpec | TextSpec, folder: Path) -> Preprocessing:
        """Read the tokenizer of a run or a version.

        Raises:
            ManifestInvalid: The file is missing or not a tokenizer.
        """
        if isinstance(spec, ImageSpec):
            return cls(spec, None)
        text.SentenceEncoder.from_dir(spec, folder)  # checks the file
        return cls(spec, text.read_tokenizer(folder / spec.tokenizer_file))

    def save(self, folder: Path) -> None:
        """Write the tokenizer, if there is one."""
        if isinstance(self.spec, TextSpec):
            # Tokenizer.save raises other errors than OSError.
            (folder / self.spec.tokenizer_file).write_text(self.tokenizer_text, encoding="utf-8")

    @property
    def tokenizer_text(self) -> str:
        """The content of the tokenizer's file; empty for pictures."""
        return self.tokenizer.to_str(pretty=False) if self.tokenizer is not None else ""

    def sizes(self, classes: int) -> Sizes:
        """Return the sizes of the network that the data determine."""
        if isinstance(self.spec, ImageSpec):
            return Sizes(classes, self.spec.height, self.spec.width, self.spec.channels)
        assert self.tokenizer is not None
        return Sizes(classes, vocabulary=self.tokenizer.get_vocab_size())

    def word_vectors(self, source: str, train: Inputs, dimensions: int) -> WordVectors:
        """Read the vocabulary's word vectors from a file, or make them from the training inputs if it is ``"own"``.

        Raises:
            DataInvalid: The file is missing or damaged.
        """
        assert isinstance(self.spec, TextSpec)
        assert self.tokenizer is not None
        assert isinstance(train, TokenInputs)
        special = self.spec.special_ids
        ids = {word: number for word, number in self.tokenizer.get_vocab().items() if number not in special}
        if source == OWN:
            return make_vectors(train.rows, len(ids), len(special), dimensions)
        return read_vectors(Path(source), ids)

    def inputs(self, split: Split) -> Inputs:
        """Turn a split into inputs for training. Pictures in memory need no decoding.

        Raises:
            DataInvalid: A sentence has no token or too many; the message names the row within the split.
        """
        if isinstance(split, Pictures):
            return PictureInputs(split.images)
        return self._tokens([split.raw(i) for i in range(len(split))])

    def inputs_of_raw(self, raw: list[bytes], first_row: int = 1) -> Inputs:
        """Turn encoded pictures or UTF-8 sentences into inputs exactly as the server does.

        Args:
            raw: At least one example.
            first_row: Row number of the first example, for messages.

        Raises:
            DataInvalid: An example cannot be read; the message names its row.
        """
        if isinstance(self.spec, TextSpec):
            return self._tokens(raw, first_row)
        pictures = []
        for row, data in enumerate(raw, start=first_row):
            try:
                pictures.append(image.load(data, self.spec))
            except InvalidInput as error:
                raise DataInvalid(f"example {row}: {error}") from None
        return PictureInputs(np.stack(pictures))

    def _tokens(self, raw: list[bytes], first_row: int = 1) -> TokenInputs:
        assert isinstance(self.spec, TextSpec)
        assert self.tokenizer is not None
        encoder = text.SentenceEncoder(self.spec, self.tokenizer)
        rows = []
        for row, data in enumerate(raw, start=first_row):
            try:
                rows.append(encoder.encode(data))
            except InvalidInput as error:
                raise DataInvalid(f"sentence {row} ({data[:40].decode(errors='replace')!r}): {error}") from None
        return TokenInputs(rows, self.spec.padding_id)


def proving_inputs(preprocessing: Preprocessing) -> Inputs:
    """Return inputs that verify a network without a test set: golden ones, and noise or ids of the extreme lengths.

    torch converts one branch of a forward that branches on the length, so a graph may be wrong only at the ends.

    Raises:
        DataInvalid: The tokenizer takes none of the sentences.
    """
    raw = proving_raw(preprocessing)
    golden = preprocessing.inputs_of_raw(list(raw))
    if isinstance(preprocessing.spec, TextSpec):
        assert isinstance(golden, TokenInputs)
        ids = np.concatenate(golden.rows)
        ends = [np.resize(ids, length) for length in (1, preprocessing.spec.max_tokens)]
        return TokenInputs(ends + golden.rows, preprocessing.spec.padding_id)
    shape = preprocessing.spec.shape
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE, *shape), dtype=np.uint8)
    return PictureInputs(np.concatenate([golden.batch(np.arange(len(raw))), noise]))


def proving_raw(preprocessing: Preprocessing) -> tuple[bytes, ...]:
    """Return golden raw inputs of a network that was trained elsewhere.

    These are the golden pictures, or the golden sentences that the tokenizer takes and sentences of its own words: all
    words of the golden ones may be unknown to it.

    Raises:
        DataInvalid: The tokenizer takes none of the sentences.
    """
    spec, tokenizer = preprocessing.spec, preprocessing.tokenizer
    if isinstance(spec, ImageSpec):
        return golden_raw(spec)
    assert tokenizer is not None
    encoder, rng = text.SentenceEncoder(spec, tokenizer), np.random.default_rng(0)
    ids = sorted(set(tokenizer.get_vocab().values()) - spec.special_ids)
    lengths = np.geomspace(1, min(spec.max_tokens, _LONGEST), _OF_ITS_WORDS).astype(int)
    own = [tokenizer.decode(rng.choice(ids, length).tolist()).encode() for length in lengths] if ids else []
    taken = []
    for sentence in (*golden_raw(spec), *own):
        with contextlib.suppress(InvalidInput):
            encoder.encode(sentence)
            taken.append(sentence)
    if not taken:
        raise DataInvalid(f"the tokenizer makes no tokens of any of {len(golden_raw(spec)) + len(own)} sentences")
    return tuple(taken)
