"""One interface to both kinds of preprocessing: an item becomes a row, rows become a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.preprocessing import image, text
from service.preprocessing.header import Header, read_header
from service.preprocessing.image import DEFAULT_LIMITS, ImageLimits
from service.spec import ImageSpec, PreprocessingSpec

Item = bytes | memoryview | str

# What is decoded and scaled in at most 0.2 ms, where handing it to another thread costs as much.
_QUICK_BYTES = 16_384
_QUICK_PIXELS = 64 * 64
_QUICK_RATIO = 4  # of the edges: a narrow picture becomes long when its shorter edge is scaled


class Preparer:
    """Turns encoded pictures or sentences into the model's input. Thread-safe."""

    def __init__(self, spec: PreprocessingSpec, version_dir: Path, image_limits: ImageLimits = DEFAULT_LIMITS) -> None:
        """Read what the specification needs from the version's folder.

        Raises:
            ManifestInvalid: The tokenizer file is missing or damaged.
        """
        self.spec = spec
        self._limits = image_limits
        self._encoder = None if isinstance(spec, ImageSpec) else text.SentenceEncoder.from_dir(spec, version_dir)

    def row(self, item: Item) -> np.ndarray:
        """Turn one item into uint8 (H, W, C) or int64 (L,).

        Raises:
            InvalidInput: The item cannot be decoded; see the modules for the reasons (INVALID_ARGUMENT).
        """
        if self._encoder is not None:
            return self._encoder.encode(item)
        assert isinstance(self.spec, ImageSpec)
        return image.load(item.encode() if isinstance(item, str) else item, self.spec, self._limits)

    def quick_row(self, item: Item) -> np.ndarray | None:
        """Like :meth:`row` for an item whose header promises a small part of a millisecond; None for others.

        Raises:
            InvalidInput: The item cannot be decoded (INVALID_ARGUMENT).
        """
        if len(item) > _QUICK_BYTES:
            return None
        if self._encoder is not None:
            return self._encoder.encode(item)
        assert isinstance(self.spec, ImageSpec)
        data = item.encode() if isinstance(item, str) else item
        header = read_header(data)
        if header is None or not self._is_quick(header, self.spec):
            return None
        return image.load(data, self.spec, self._limits, header)

    @staticmethod
    def _is_quick(header: Header, spec: ImageSpec) -> bool:
        return max(header.pixels, spec.width * spec.height) <= _QUICK_PIXELS and max(
            header.width, header.height
        ) <= _QUICK_RATIO * min(header.width, header.height)

    def stack(self, rows: list[np.ndarray]) -> np.ndarray:
        """Put rows together: (N, H, W, C), or (N, longest L) padded on the right."""
        if len(rows) == 1:
            return rows[0][np.newaxis]
        if isinstance(self.spec, ImageSpec):
            return np.stack(rows)
        return text.pad(rows, self.spec.padding_id)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Check a tensor's shape, which fits the input's specification, before its contents are read.

        Raises:
            InvalidInput: Too many token ids, or none (INVALID_ARGUMENT).
        """
        if self._encoder is not None:
            self._encoder.check_length(shape[1])

    def check(self, batch: np.ndarray) -> None:
        """Check the contents of a tensor of the right dtype and shape, which the graph might still not take.

        Raises:
            InvalidInput: Token ids out of range or too many (INVALID_ARGUMENT).
        """
        if self._encoder is not None:
            self._encoder.check_ids(batch)
