"""The protocol's datatypes and tensor specifications, and checks of arrays against them.

Shapes are tuples in the protocol's convention: -1 is a variable dimension, and the first dimension of a batched tensor
is the batch. docs/architecture.md defines the letters in docstrings: N batch, H height, W width, C channels, L tokens,
K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.errors import InvalidInput

# NumPy has no bfloat16. A separate dtype of two raw bytes distinguishes it from UINT16.
BF16 = np.dtype([("bf16", "<u2")])

# Open Inference Protocol v2, "Tensor Data Types".
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": BF16,
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
Form = tuple[str, tuple[int, ...]]
"""Datatype and shape of a tensor, as a message states them."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def as_numbers(array: np.ndarray) -> np.ndarray:
    """Return an array that NumPy can calculate with: BF16 is widened to float32, exactly; others stay the same."""
    if array.dtype != BF16:
        return array
    return (array["bf16"].astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output.

    Attributes:
        name: Name in the graph.
        datatype: A key of :data:`DTYPES`.
        shape: All dimensions, including the batch; -1 is variable.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of an array of this tensor."""
        return DTYPES[self.datatype]

    def __str__(self) -> str:
        """Format for error messages: ``images UINT8 [-1, 28, 28, 1]``."""
        return f"{self.name} {self.datatype} {list(self.shape)}"

    def accepts_shape(self, shape: tuple[int, ...]) -> bool:
        """Tell whether an array of this shape fits; variable dimensions accept any size."""
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def check(self, array: np.ndarray) -> None:
        """Refuse an array of another dtype or shape.

        Raises:
            InvalidInput: It does not fit; names the tensor, what was expected and what came (INVALID_ARGUMENT).
        """
        self.check_form(_NAMES.get(array.dtype, str(array.dtype)), array.shape)

    def check_form(self, datatype: str, shape: tuple[int, ...]) -> None:
        """Refuse another datatype or shape than expected, before a message's contents are read.

        Raises:
            InvalidInput: As for :meth:`check`.
        """
        if datatype != self.datatype:
            raise InvalidInput(f"input '{self.name}': expected datatype {self.datatype}, got {datatype}")
        if not self.accepts_shape(shape):
            raise InvalidInput(f"input '{self.name}': expected shape {list(self.shape)}, got {list(shape)}")


@dataclass(frozen=True, slots=True)
class AnyRank(TensorSpec):
    """An input or output whose rank the graph leaves open; ``shape`` is as of a scalar, and every other fits, too."""

    def accepts_shape(self, shape: tuple[int, ...]) -> bool:
        """Tell that it fits."""
        return True
