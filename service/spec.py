"""Preprocessing specs: they describe, as data, how a picture or a sentence becomes a model's input.

``service.preprocessing`` does what they describe, in training, evaluation and serving alike. Both classes are strict:
no key has a default when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Resize = Literal["exact", "shorter-edge"]


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an encoded picture becomes a uint8 array (H, W, C).

    Attributes:
        kind: Always ``"image"``; distinguishes the specs in a manifest.
        mode: ``"L"`` for one grey channel, ``"RGB"`` for three, in that order.
        height: H of the model's input in pixels.
        width: W of the model's input in pixels.
        resize: ``"exact"`` scales to H x W and ignores the aspect ratio; ``"shorter-edge"`` scales the shorter edge to
            ``resize_px`` and crops the centre, as torchvision's presets do.
        resize_px: Pixels of the shorter edge before the crop; H for ``"exact"``.
        interpolation: Pillow's filter of that name; it antialiases when it shrinks.
        mean: Per channel, on the scale [0, 1]. The graph subtracts it, not the server.
        std: Per channel, on the scale [0, 1]. The graph divides by it, not the server.
    """

    kind: Literal["image"]
    mode: Literal["L", "RGB"]
    height: int
    width: int
    resize: Resize
    resize_px: int
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse invalid sizes and wrong numbers of channels.

        Raises:
            ValueError: A field is wrong; names it.
        """
        if min(self.height, self.width, self.resize_px) < 1:
            sizes = f"{self.height}, {self.width} and {self.resize_px}"
            raise ValueError(f"preprocessing: height, width and resize_px must be at least 1, got {sizes}")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"preprocessing: mean and std need {self.channels} values for mode {self.mode}, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing: std must be positive, got {list(self.std)}")

    @property
    def channels(self) -> int:
        """C: 1 for ``"L"``, 3 for ``"RGB"``."""
        return 1 if self.mode == "L" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one picture."""
        return (self.height, self.width, self.channels)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How a sentence becomes int64 token ids (L,).

    The graph itself adds the padding that its filters need on both sides. So ids may be padded on the right with
    ``padding_id`` to any length without changing the answer.

    Attributes:
        kind: Always ``"text"``.
        tokenizer_file: File next to the manifest, in the Hugging Face ``tokenizers`` format; its normaliser holds the
            cleaning rules.
        padding_id: Id of padding.
        unknown_id: Id of words outside the vocabulary; None if the tokenizer knows every word, as one of bytes does.
        max_tokens: Maximum length of a sentence in tokens; a longer one is refused, not truncated.
    """

    kind: Literal["text"]
    tokenizer_file: str
    padding_id: int
    unknown_id: int | None
    max_tokens: int

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: A field is wrong; names it.
        """
        if self.max_tokens < 1:
            raise ValueError(f"preprocessing: max_tokens must be at least 1, got {self.max_tokens}")
        if min(self.special_ids) < 0:
            ids = f"{self.padding_id} and {self.unknown_id}"
            raise ValueError(f"preprocessing: padding_id and unknown_id must be at least 0, got {ids}")
        if self.padding_id == self.unknown_id:
            raise ValueError(f"preprocessing: padding_id and unknown_id must differ, both are {self.padding_id}")

    @property
    def special_ids(self) -> set[int]:
        """The ids that stand for no word."""
        return {self.padding_id} if self.unknown_id is None else {self.padding_id, self.unknown_id}


PreprocessingSpec = ImageSpec | TextSpec
