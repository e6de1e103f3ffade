"""Builds the requests to send, and compares their answers with a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from bench.conformance.model import Arrays, Model, outputs_of
from bench.conformance.outcome import CheckFailed
from bench.conformance.tensors import DTYPES, same
from bench.conformance.tensors import to_raw as raw_contents
from bench.errors import OptionsInvalid
from service.pb.inference import grpc_service_pb2 as pb

_SENTENCES = (".txt", ".text")
_MOST_BYTES = 4_000_000_000  # of the requests that are made up; every client process has them


def read_encoded(path: Path) -> dict[str, bytes]:
    """Return the pictures of a folder in the order of their names, the sentences of a text file, or one picture.

    Returns:
        Each by where it came from.

    Raises:
        OptionsInvalid: There is none, or the path cannot be read.
    """
    try:
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
            found = {str(file): file.read_bytes() for file in files}
        elif path.suffix in _SENTENCES:
            lines = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
            found = {f"{path}, sentence {number}": line for number, line in enumerate(lines, start=1)}
        else:
            found = {str(path): path.read_bytes()}
    except OSError as error:
        raise OptionsInvalid(f"--input {path}: {error.strerror}") from None
    if not found:
        raise OptionsInvalid(
            f"--input {path}: expected a folder with pictures, or a text file with one sentence per line"
        )
    return found


def generated_requests(model: Model, count: int, rows: int, version: str) -> list[bytes]:
    """Make up ``count`` requests from the model's metadata, each with other numbers.

    Raises:
        OptionsInvalid: They would fill too much memory.
    """
    sizes = [math.prod(model.shape(tensor, rows)) * DTYPES[tensor.datatype].itemsize for tensor in model.inputs]
    if count * sum(sizes) > _MOST_BYTES:
        raise OptionsInvalid(
            f"--distinct {count} requests of {sum(sizes):,} bytes are more than {_MOST_BYTES:,} bytes together: "
            "give a lower --distinct, --rows or --length"
        )
    return [model.valid_request(rows, seed, version=version).SerializeToString() for seed in range(count)]


def encoded_requests(model: Model, encoded: Sequence[bytes], rows: int, version: str) -> list[bytes]:
    """Build requests of encoded pictures or sentences, as BYTES for the model's only input.

    Args:
        model: The model.
        encoded: What to send.
        rows: Number in each request; after the end of the list its beginning follows.
        version: Of the model.

    Raises:
        OptionsInvalid: The model has several inputs.
    """
    if len(model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise OptionsInvalid(f"--input is for models with one input; '{model.name}' has {names}: leave it out")
    tensor = model.inputs[0]
    shape = model.shape(tensor, rows) if tensor.datatype == "BYTES" else (rows,)
    shape = tuple(1 if place and size > 1 else size for place, size in enumerate(shape))
    requests = []
    for first in range(len(encoded)):
        elements = np.empty(rows, dtype=object)
        elements[:] = [encoded[(first + row) % len(encoded)] for row in range(rows)]
        request = pb.ModelInferRequest(model_name=model.name, model_version=version)
        request.inputs.add(name=tensor.name, datatype="BYTES", shape=shape)
        request.raw_input_contents.append(raw_contents(elements))
        requests.append(request.SerializeToString())
    return requests


@dataclass(frozen=True, slots=True)
class Reference:
    """The answer to each request, asked alone before the load.

    Attributes:
        messages: Serialized responses, by request.
    """

    messages: tuple[bytes, ...]
    _known: dict[int, Arrays] = field(default_factory=dict, compare=False)

    def differs(self, pick: int, message: bytes) -> bool:
        """Tell whether an answer differs from the reference, beyond the rounding of batches of other sizes."""
        if message == self.messages[pick]:
            return False
        try:
            came = outputs_of(pb.ModelInferResponse.FromString(message))
            if pick not in self._known:
                self._known[pick] = outputs_of(pb.ModelInferResponse.FromString(self.messages[pick]))
        except (CheckFailed, DecodeError):
            return True
        expected = self._known[pick]
        return came.keys() != expected.keys() or not all(
            same(expected[name], came[name], exact=False) for name in expected
        )
