"""Arrays to the wire and back, and arrays made up for any datatype.

BF16 has no NumPy dtype: its two bytes are carried as uint16. BYTES are arrays of bytes objects.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
# OIP, InferTensorContents. FP16 and BF16 have no field.
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_WORDS = (b"", b"a", "größer als €5".encode(), b"a fine film", b"line\nbreak", b"x" * 300)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as ModelMetadata shows it; -1 is an axis of any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def make_array(tensor: Tensor, shape: Sequence[int], seed: int, *, any_value: bool) -> np.ndarray:
    """Make an array up.

    Args:
        tensor: What it is for.
        shape: No -1 left.
        seed: The same seed makes the same array.
        any_value: Whether to use all values of the datatype, extremes included; otherwise small numbers
            and words, since an unknown model may take numbers as indices.
    """
    random = np.random.default_rng([seed, *tensor.name.encode()])
    dtype, count = DTYPES[tensor.datatype], math.prod(shape)
    if tensor.datatype == "BYTES":
        words = _WORDS if any_value else _WORDS[3:4]
        flat = np.empty(count, dtype=object)
        flat[:] = [words[i] for i in random.integers(0, len(words), count)]
    elif tensor.datatype == "BOOL":
        flat = random.integers(0, 2, count).astype(dtype)
    elif tensor.datatype == "BF16":
        # The upper half of a float32, which is what BF16 is.
        flat = (random.random(count, dtype=np.float32).view("<u4") >> 16).astype(dtype)
    elif dtype.kind == "f":
        flat = random.random(count).astype(dtype)
    else:
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if any_value else (0, 3)
        flat = random.integers(low, high, count, dtype=dtype, endpoint=True)
    return flat.reshape(shape)


def extremes(datatype: str, count: int, first: int) -> np.ndarray:
    """Return ``count`` values that are easily got wrong; a datatype has at most nine, taken in turn from ``first``."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        values: Any = np.empty(len(_WORDS), dtype=object)
        values[:] = _WORDS
    elif datatype == "BOOL":
        values = np.array([True, False])
    elif datatype == "BF16":
        values = np.array([0x0000, 0x8000, 0x3F80, 0x7F80, 0xFF80, 0x7F7F, 0x0001], dtype=dtype)
    elif dtype.kind == "f":
        limits = np.finfo(dtype)
        values = np.array([0.0, -0.0, limits.max, limits.min, limits.tiny, np.inf, -np.inf, np.nan, 1 / 3], dtype=dtype)
    else:
        info = np.iinfo(dtype)
        values = np.array([info.max, info.min, 0, 1], dtype=dtype)
    return np.resize(np.roll(values, -first), count)


def to_raw(array: np.ndarray) -> bytes:
    """Return raw contents: little-endian, row-major; BYTES elements each after their length in four bytes."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())


def from_raw(data: bytes, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """Read raw contents.

    Raises:
        ValueError: The bytes do not fit datatype and shape.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return _objects(_split(data, count), shape)
    size = DTYPES[datatype].itemsize
    if len(data) != count * size:
        raise ValueError(f"{len(data)} bytes for {datatype} {list(shape)}, which takes {count * size}")
    return np.frombuffer(data, DTYPES[datatype]).reshape(shape)


def from_typed(contents: Any, datatype: str, shape: Sequence[int]) -> np.ndarray:
    """Read typed contents.

    Raises:
        ValueError: There is no field for the datatype, or the count does not fit the shape.
    """
    if datatype not in FIELDS:
        raise ValueError(f"{datatype} in typed contents, where it has no field")
    values = list(getattr(contents, FIELDS[datatype]))
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} elements in {FIELDS[datatype]} for shape {list(shape)}")
    if datatype == "BYTES":
        return _objects(values, shape)
    return np.array(values, dtype=DTYPES[datatype]).reshape(shape)


def same(one: np.ndarray, other: np.ndarray, *, exact: bool) -> bool:
    """Tell whether two arrays are equal; unless ``exact``, up to the rounding of batches of different sizes."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    if exact:
        signs = np.signbit(one) == np.signbit(other)  # of nought, too
        return bool(np.array_equal(one, other, equal_nan=True) and np.all(signs | np.isnan(one)))
    tolerance = 1e-2 if one.dtype.itemsize == 2 else 1e-4
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance / 10, equal_nan=True))


def _objects(elements: Sequence[bytes], shape: Sequence[int]) -> np.ndarray:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _split(data: bytes, count: int) -> list[bytes]:
    elements, offset = [], 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise ValueError(f"BYTES: {len(data) - offset} bytes where the length of an element should be")
        (size,) = struct.unpack_from("<I", data, offset)
        if offset + 4 + size > len(data):
            raise ValueError(f"BYTES: an element of {size} bytes where {len(data) - offset - 4} are left")
        elements.append(data[offset + 4 : offset + 4 + size])
        offset += 4 + size
    if len(elements) != count:
        raise ValueError(f"BYTES: {len(elements)} elements where the shape has {count}")
    return elements
