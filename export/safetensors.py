"""Reads the file format safetensors: a length, a JSON table, and the bytes of the tensors.

https://github.com/huggingface/safetensors describes it. Such a file cannot contain code.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from export.errors import WeightsInvalid

SUFFIX = ".safetensors"
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name.

    Raises:
        WeightsInvalid: The file cannot be read, is truncated, or has a tensor of an unsupported type.
    """
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise WeightsInvalid(f"{path}: {error.strerror}") from None
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    begin = _LENGTH_BYTES + length
    try:
        if begin > len(content):
            raise ValueError("its table is cut short")
        table = json.loads(content[_LENGTH_BYTES:begin])
        tensors = {name: about for name, about in table.items() if name != _METADATA}
        if unknown := {about["dtype"] for about in tensors.values()} - _DTYPES.keys():
            raise WeightsInvalid(f"{path}: has tensors of type {', '.join(sorted(unknown))}; save them as F32")
        return {name: _tensor(content, begin, about) for name, about in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):  # the last is torch's, for invalid shapes
        raise WeightsInvalid(f"{path}: is not a complete safetensors file; download or save it again") from None


def _tensor(content: bytearray, begin: int, about: dict[str, Any]) -> torch.Tensor:
    dtype, shape = _DTYPES[about["dtype"]], tuple(about["shape"])
    first, last = about["data_offsets"]
    count = math.prod(shape)
    if not 0 <= first <= last or last - first != count * dtype.itemsize:  # torch itself refuses to read past the end
        raise ValueError("a tensor's place does not fit its shape")
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=begin + first).reshape(shape).clone()
