"""Turns sentences into token ids, as a :class:`~service.spec.TextSpec` and its tokenizer file describe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from service.errors import InvalidInput, ManifestInvalid
from service.spec import TextSpec

# Far above the longest words of any language. A longer sentence is refused before it is tokenised.
MAX_BYTES_PER_TOKEN = 64


class SentenceEncoder:
    """Cleans and tokenises sentences. Thread-safe; the tokenizer releases the GIL."""

    def __init__(self, spec: TextSpec, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer, which must have the spec's padding and unknown ids. It will not cut or pad."""
        # Whatever its file says: too long sentences are refused, and batches are padded here.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.spec = spec
        self._tokenizer = tokenizer
        self._vocabulary_size: int = tokenizer.get_vocab_size()

    @classmethod
    def from_dir(cls, spec: TextSpec, version_dir: Path) -> SentenceEncoder:
        """Read the tokenizer file of a version folder.

        Raises:
            ManifestInvalid: The file is missing or not a tokenizer.
        """
        path = version_dir / spec.tokenizer_file
        encoder = cls(spec, read_tokenizer(path))
        if max(spec.special_ids) >= encoder._vocabulary_size:
            raise ManifestInvalid(f"{path}: padding_id or unknown_id lies outside its {encoder._vocabulary_size} ids")
        return encoder

    def encode(self, sentence: bytes | memoryview | str) -> np.ndarray:
        """Turn one sentence into its token ids.

        Args:
            sentence: Text, or its UTF-8 bytes.

        Returns:
            int64 (L,), 1 <= L <= ``max_tokens``.

        Raises:
            InvalidInput: The sentence is not UTF-8, has no token or is too long (INVALID_ARGUMENT).
        """
        text = sentence if isinstance(sentence, str) else _utf8(sentence)
        limit = self.spec.max_tokens * MAX_BYTES_PER_TOKEN
        if len(text) > limit:
            raise InvalidInput(f"sentence has {len(text)} characters, expected at most {limit}")
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise InvalidInput("sentence has no tokens, expected at least one word")
        if len(ids) > self.spec.max_tokens:
            raise InvalidInput(f"sentence has {len(ids)} tokens, expected at most {self.spec.max_tokens}")
        return np.asarray(ids, dtype=np.int64)

    def check_length(self, tokens: int) -> None:
        """Check the length of a tensor of ids, before its contents are read.

        Raises:
            InvalidInput: There are no tokens or too many (INVALID_ARGUMENT).
        """
        if not 1 <= tokens <= self.spec.max_tokens:
            raise InvalidInput(f"ids have length {tokens}, expected 1 to {self.spec.max_tokens}")

    def check_ids(self, ids: np.ndarray) -> None:
        """Refuse a tensor of ids that the graph could not look up.

        An id outside the embedding table would fail the whole batch, including other callers' requests.

        Args:
            ids: int64 (N, L).

        Raises:
            InvalidInput: Too many tokens, or an id out of range (INVALID_ARGUMENT).
        """
        self.check_length(ids.shape[1])
        least, greatest = int(ids.min()), int(ids.max())
        if least < 0 or greatest >= self._vocabulary_size:
            raise InvalidInput(f"ids run from {least} to {greatest}, expected 0 to {self._vocabulary_size - 1}")


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer file.

    Raises:
        ManifestInvalid: It is missing or not a tokenizer.
    """
    if not path.is_file():  # reading a pipe would never end and block everything else
        raise ManifestInvalid(f"{path}: not readable as a tokenizer (no such file)")
    try:
        return Tokenizer.from_file(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # tokenizers raises plain Exception, or panics
        raise ManifestInvalid(f"{path}: not readable as a tokenizer ({error})") from None


def pad(rows: list[np.ndarray], padding_id: int) -> np.ndarray:
    """Stack rows of ids of any length into int64 (N, longest), padded on the right."""
    ids = np.full((len(rows), max(map(len, rows))), padding_id, dtype=np.int64)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = values
    return ids


def _utf8(data: bytes | memoryview) -> str:
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"sentence is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
