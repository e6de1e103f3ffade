"""What a ModelInfer message said last time, so that the next one like it need not be parsed.

A client sends the same message again and again but for the tensors' bytes and perhaps the id. The
rest, compared as bytes, has been parsed and checked before. Worth about 10 µs a call, half of intake.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from service.pb.inference import grpc_service_pb2 as pb
from service.transport.replies import InferForm

_MAX_A_LENGTH = 8
_MAX_LENGTHS = 512
_IDENTITY = 3  # fields of ModelInferRequest
_RAW_CONTENTS = 7
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where an input lies in the message, and what it becomes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Template:
    """A message with holes for the id and the tensors' bytes, and all that the rest of it means.

    Attributes:
        constants: What stands where: offset and bytes.
        identity: Where the id stands; None without one.
        tensors: The graph's inputs, in its order, the batch axis included.
        group: Which requests these inputs may share a batch with.
        form: Of the answers; its servable is the one that the inputs were checked against.
        model_name: As asked for.
        model_version: As asked for.
        timeout_seconds: Infinite for none.
        priority: 0 for none.
    """

    constants: tuple[tuple[int, bytes], ...]
    identity: slice | None
    tensors: tuple[Tensor, ...]
    group: Hashable
    form: InferForm
    model_name: str
    model_version: str
    timeout_seconds: float
    priority: int

    def fits(self, payload: bytes) -> bool:
        """Tell whether a message of the same length says the same."""
        return all(payload.startswith(constant, offset) for offset, constant in self.constants)

    def inputs(self, payload: bytes) -> list[np.ndarray]:
        """Return read-only views of the message's tensors."""
        return [
            np.frombuffer(payload, tensor.dtype, tensor.count, tensor.offset).reshape(tensor.shape)
            for tensor in self.tensors
        ]

    def request_id(self, payload: bytes) -> str:
        """Return the message's id.

        Raises:
            DecodeError: It is not UTF-8.
        """
        if self.identity is None:
            return ""
        try:
            return payload[self.identity].decode()
        except UnicodeDecodeError:
            raise DecodeError("the id is not UTF-8") from None


class Templates:
    """The templates of late. Thread-safe, bounded; forgets everything rather than choose."""

    def __init__(self) -> None:
        self._by_length: dict[int, tuple[Template, ...]] = {}

    def find(self, payload: bytes) -> Template | None:
        """Return what a message means, if one like it was seen."""
        for template in self._by_length.get(len(payload), ()):
            if template.fits(payload):
                return template
        return None

    def keep(self, payload: bytes, template: Template) -> None:
        """Remember a message's template in place of any that it fits."""
        if len(self._by_length) >= _MAX_LENGTHS:
            self._by_length.clear()
        others = [other for other in self._by_length.get(len(payload), ()) if not other.fits(payload)]
        self._by_length[len(payload)] = (template, *others)[:_MAX_A_LENGTH]


def template_of(
    payload: bytes,
    request: pb.ModelInferRequest,
    arrays: Mapping[str, np.ndarray],
    form: InferForm,
    timeout_seconds: float,
    priority: int,
) -> Template | None:
    """Return the template of a message that was parsed, checked and taken.

    None for one with inputs that are not plain numbers in raw contents, or brought beyond the required.

    Args:
        payload: The message.
        request: The same, parsed.
        arrays: Its inputs.
        form: Of its answer.
        timeout_seconds: Its timeout; infinite for none.
        priority: Its priority; 0 for none.
    """
    servable = form.servable
    if len(request.raw_input_contents) != len(arrays) or arrays.keys() != {spec.name for spec in servable.inputs}:
        return None
    if any(array.dtype == object for array in arrays.values()):
        return None
    holes = _holes(payload)
    if holes is None:
        return None
    identity, contents = holes
    offsets = {tensor.name: hole.start for tensor, hole in zip(request.inputs, contents, strict=True)}
    ordered = [arrays[spec.name] for spec in servable.inputs]
    shapes = [array.shape if servable.batched else (1, *array.shape) for array in ordered]
    tensors = tuple(
        Tensor(array.dtype, shape, offsets[spec.name], math.prod(shape))
        for spec, array, shape in zip(servable.inputs, ordered, shapes, strict=True)
    )
    group = servable.group_of([array.reshape(shape) for array, shape in zip(ordered, shapes, strict=True)])
    filled = sorted((*contents, *([identity] if identity else [])), key=lambda hole: hole.start)
    starts = [0, *(hole.stop for hole in filled)]
    ends = [*(hole.start for hole in filled), len(payload)]
    constants = tuple((start, payload[start:end]) for start, end in zip(starts, ends, strict=True) if start < end)
    return Template(
        constants,
        identity,
        tensors,
        group,
        form,
        request.model_name,
        request.model_version,
        timeout_seconds,
        priority,
    )


def _holes(payload: bytes) -> tuple[slice | None, Sequence[slice]] | None:
    """Find the id and the raw contents in a valid message; None if it is written in an uncommon way."""
    identity: slice | None = None
    contents: list[slice] = []
    position = 0
    while position < len(payload):
        tag, position = _read_varint(payload, position)
        kind = tag & 7
        if kind == _DELIMITED:
            size, position = _read_varint(payload, position)
            hole = slice(position, position + size)
            if tag >> 3 == _RAW_CONTENTS:
                contents.append(hole)
            elif tag >> 3 == _IDENTITY:
                if identity is not None:
                    return None  # given twice, the last one counts
                identity = hole
            position += size
        elif kind == _VARINT:
            _, position = _read_varint(payload, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            return None
    return identity, contents


def _read_varint(payload: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = payload[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
