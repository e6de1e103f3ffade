"""What a ModelInfer message meant, so that the next one like it need not be parsed.

A client sends the same message again and again, with only the tensors' bytes and perhaps the id changed.
The rest, compared as bytes, has been parsed and checked before. This saves about 10 µs per call, half of
intake, and 25 µs for a picture as BYTES, since the common part of its answers is then kept as well.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from service.fields import DELIMITED, FIXED32, FIXED64, VARINT, fields, read_varint
from service.pb.inference import grpc_service_pb2 as pb
from service.preprocessing.prepare import Item
from service.repository.servable import Servable
from service.transport.replies import InferForm
from service.transport.tensor_codec import split_bytes

_MAX_A_LENGTH = 8
_MAX_LENGTHS = 512
_MAX_OF_ITEMS = 16
_MAX_CONSTANT_BYTES = 4096  # of one message; each template keeps them, and they are gone through field by field
_IDENTITY = 3  # fields of ModelInferRequest
_RAW_CONTENTS = 7


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
        constants: The fixed parts: offset and bytes.
        identity: Where the id is; None without one.
        tensors: The graph's inputs, in its order, the batch axis included.
        rows: Rows of the tensors; 0 if there are none.
        group: The group of requests that these inputs may share a batch with.
        form: The form of the answers; the inputs were checked against its servable.
        model_version: The requested version; the requested name is the servable's.
        timeout_seconds: Infinite for none.
        priority: 0 for none.
        items: How many pictures or sentences, of any length, the message ends with; 0 if it has tensors.
        items_at: Where their contents begin, including the length before them.
    """

    constants: tuple[tuple[int, bytes], ...]
    identity: slice | None
    tensors: tuple[Tensor, ...]
    rows: int
    group: Hashable
    form: InferForm
    model_version: str
    timeout_seconds: float
    priority: int
    items: int = 0
    items_at: int = 0

    def fits(self, payload: bytes) -> bool:
        """Return whether a message says the same. It must have the same length unless the template has items."""
        for offset, constant in self.constants:
            if not payload.startswith(constant, offset):
                return False
        return not self.items or self._start(payload) is not None

    def _start(self, payload: bytes) -> int | None:
        """Return where the items begin, if the message ends with them."""
        try:
            size, start = read_varint(payload, self.items_at)
        except IndexError:
            return None
        return start if start + size == len(payload) else None

    def encoded_items(self, payload: bytes) -> Sequence[Item]:
        """Return the message's pictures or sentences.

        Raises:
            InvalidInput: Their lengths do not add up (INVALID_ARGUMENT).
        """
        return split_bytes(self.form.servable.inputs[0].name, payload, self.items, self._start(payload) or 0)

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
    """The latest templates. Thread-safe and bounded; when full, it forgets everything rather than choose."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for changes; finding takes none
        self._by_length: dict[int, tuple[Template, ...]] = {}
        self._of_items: tuple[Template, ...] = ()

    def find(self, payload: bytes) -> Template | None:
        """Return what a message means, if one like it was seen."""
        for template in self._by_length.get(len(payload), ()):
            if template.fits(payload):
                return template
        for template in self._of_items:
            if template.fits(payload):
                return template
        return None

    def keep(self, payload: bytes, template: Template) -> None:
        """Remember a message's template in place of any that it fits."""
        with self._lock:
            if template.items:
                others = [other for other in self._of_items if not other.fits(payload)]
                self._of_items = (template, *others)[:_MAX_OF_ITEMS]
                return
            if len(self._by_length) >= _MAX_LENGTHS:
                self._by_length.clear()
            others = [other for other in self._by_length.get(len(payload), ()) if not other.fits(payload)]
            self._by_length[len(payload)] = (template, *others)[:_MAX_A_LENGTH]

    def forget(self, servable: Servable) -> None:
        """Drop all templates of a servable; they would keep it, and with it the model's weights."""

        def left(templates: tuple[Template, ...]) -> tuple[Template, ...]:
            return tuple(template for template in templates if template.form.servable is not servable)

        with self._lock:
            found = ((length, left(templates)) for length, templates in self._by_length.items())
            self._by_length = {length: templates for length, templates in found if templates}
            self._of_items = left(self._of_items)


def template_of(
    payload: bytes,
    request: pb.ModelInferRequest,
    arrays: Mapping[str, np.ndarray],
    form: InferForm,
    timeout_seconds: float,
    priority: int,
) -> Template | None:
    """Return the template of a message that was parsed, checked and taken.

    None unless the inputs are the required ones, all plain numbers or pictures or sentences in raw contents. BOOL is no
    plain number, since not every byte is a valid one. None also for a message with much other content, which would be
    kept for as long as the version serves.
    """
    servable = form.servable
    if len(request.raw_input_contents) != len(arrays) or arrays.keys() != {spec.name for spec in servable.inputs}:
        return None
    texts = any(array.dtype == object for array in arrays.values())
    if (texts and servable.preparer is None) or any(array.dtype == np.bool_ for array in arrays.values()):
        return None
    holes = _holes(payload)
    if holes is None:
        return None
    identity, contents = holes
    tensors: tuple[Tensor, ...] = ()
    group, items, items_at = None, 0, 0
    if texts:
        (array,), (hole,) = arrays.values(), contents
        if hole.stop != len(payload):
            return None
        items, items_at = array.size, _length_at(payload, hole.start)
        contents = [slice(items_at, hole.stop)]
    else:
        tensors = _tensors(request, arrays, form, contents)
        found = zip(servable.inputs, tensors, strict=True)
        group = servable.group_of([arrays[spec.name].reshape(tensor.shape) for spec, tensor in found])
    filled = sorted((*contents, *([identity] if identity else [])), key=lambda hole: hole.start)
    starts = [0, *(hole.stop for hole in filled)]
    ends = [*(hole.start for hole in filled), len(payload)]
    constants = tuple((start, payload[start:end]) for start, end in zip(starts, ends, strict=True) if start < end)
    return Template(
        constants,
        identity,
        tensors,
        tensors[0].shape[0] if tensors else 0,
        group,
        form,
        request.model_version,
        timeout_seconds,
        priority,
        items,
        items_at,
    )


def _tensors(
    request: pb.ModelInferRequest, arrays: Mapping[str, np.ndarray], form: InferForm, contents: Sequence[slice]
) -> tuple[Tensor, ...]:
    """Return where the graph's inputs lie in the message."""
    servable = form.servable
    offsets = {tensor.name: hole.start for tensor, hole in zip(request.inputs, contents, strict=True)}
    ordered = [(spec.name, arrays[spec.name]) for spec in servable.inputs]
    shapes = [array.shape if servable.batched else (1, *array.shape) for _, array in ordered]
    return tuple(
        Tensor(array.dtype, shape, offsets[name], math.prod(shape))
        for (name, array), shape in zip(ordered, shapes, strict=True)
    )


def _length_at(payload: bytes, start: int) -> int:
    """Return where the length of contents stands that begin at ``start``: after the tag, a byte below 128."""
    position = start - 1
    while payload[position - 1] >= 0x80:
        position -= 1
    return position


def _holes(payload: bytes) -> tuple[slice | None, Sequence[slice]] | None:
    """Find the id and the raw contents in a valid message; None if it is written uncommonly, or says much besides."""
    identity: slice | None = None
    contents: list[slice] = []
    filled = 0
    for number, kind, place in fields(payload):
        if kind not in (DELIMITED, VARINT, FIXED64, FIXED32):
            return None
        if kind == DELIMITED and number == _RAW_CONTENTS:
            contents.append(place)
            filled += place.stop - place.start
        elif kind == DELIMITED and number == _IDENTITY:
            if identity is not None:
                return None  # given twice, the last one counts
            identity = place
            filled += place.stop - place.start
        if place.stop - filled > _MAX_CONSTANT_BYTES:
            return None
    return identity, contents
