"""bytes: elements of BYTES are framed by their length, and damaged frames are refused."""

from __future__ import annotations

import struct
from typing import Any

import grpc
import numpy as np

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import CallFailed, NotApplicable, expect
from bench.conformance.registry import model_check
from bench.conformance.tensors import Tensor, same

_SOURCE = "OIP, Tensor Data (raw BYTES: four bytes of length, little-endian, then the element)"


def _strings(model: Model, *, mirrored: bool) -> Tensor:
    """Return an input of BYTES; if ``mirrored``, one that an output gives back."""
    for tensor in model.inputs:
        if tensor.datatype == "BYTES" and (not mirrored or tensor.name in model.mirrors.values()):
            return tensor
    raise NotApplicable("the model has no BYTES input" + (" that an output gives back" if mirrored else ""))


def _refused(suite: Any, model: Model, data: bytes) -> None:
    """Send a valid request with other raw contents for its BYTES input, which must be INVALID_ARGUMENT."""
    tensor = _strings(model, mirrored=False)
    request = model.valid_request()
    place = [given.name for given in request.inputs].index(tensor.name)
    request.raw_input_contents[place] = data
    suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)


def _count(model: Model) -> int:
    return int(np.prod(model.shape(_strings(model, mirrored=False), 1)))


@model_check("bytes", "empty, long and multi-byte elements come back as they were sent", _SOURCE)
def elements_come_back(suite: Any, model: Model) -> None:
    tensor = _strings(model, mirrored=True)
    words = [b"", "größer als €5".encode(), b"x" * 70_000, b"\x01 control", b" spaces ", b"\n"]
    for first in range(0, len(words), 2):
        arrays = model.arrays()
        flat = np.empty(_count(model), dtype=object)
        flat[:] = [words[(first + i) % len(words)] for i in range(len(flat))]
        arrays[tensor.name] = flat.reshape(arrays[tensor.name].shape)
        model.check_mirrors(arrays, outputs_of(suite.target.infer(model.request(arrays))))


@model_check("bytes", "bytes that are not UTF-8 come back, or are INVALID_ARGUMENT", "no text says so")
def not_utf8(suite: Any, model: Model) -> None:
    tensor = _strings(model, mirrored=True)
    arrays = model.arrays()
    array = np.empty(arrays[tensor.name].size, dtype=object)
    array[:] = [b"\xff\xfe\x00\x80"] * len(array)
    arrays[tensor.name] = array.reshape(arrays[tensor.name].shape)
    try:
        came = outputs_of(suite.target.infer(model.request(arrays)))
    except CallFailed as failed:
        expect(failed.code is grpc.StatusCode.INVALID_ARGUMENT, "an answer or INVALID_ARGUMENT", failed)
        return
    for output, source in model.mirrors.items():
        if source == tensor.name and output in came:
            expect(same(arrays[source], came[output], exact=True), "the same bytes", came[output].tolist())


@model_check("bytes", "an element longer than the rest is INVALID_ARGUMENT", _SOURCE)
def element_too_long(suite: Any, model: Model) -> None:
    good = struct.pack("<I", 1) + b"a"
    damaged = good * (_count(model) - 1) + struct.pack("<I", 1000) + b"abc"
    _refused(suite, model, damaged)


@model_check("bytes", "a length of four gigabytes is INVALID_ARGUMENT", _SOURCE)
def length_enormous(suite: Any, model: Model) -> None:
    _refused(suite, model, b"\xff\xff\xff\xff" * _count(model))


@model_check("bytes", "a length cut off is INVALID_ARGUMENT", _SOURCE)
def length_cut_off(suite: Any, model: Model) -> None:
    good = struct.pack("<I", 1) + b"a"
    _refused(suite, model, good * (_count(model) - 1) + b"\x01\x00")


@model_check("bytes", "an element too few or too many is INVALID_ARGUMENT", _SOURCE)
def wrong_count(suite: Any, model: Model) -> None:
    good = struct.pack("<I", 1) + b"a"
    for count in (_count(model) - 1, _count(model) + 1):
        _refused(suite, model, good * count)
