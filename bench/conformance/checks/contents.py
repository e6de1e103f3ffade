"""contents, raw-only and input-order: tensors arrive as they were sent, however they were sent."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import NotApplicable, expect_equal
from bench.conformance.registry import model_check
from bench.conformance.tensors import DTYPES, FIELDS, to_raw

_TENSORS = "OIP, Tensor Data"
_CONTENTS = "OIP, InferTensorContents"


def _needs_mirror(model: Model) -> None:
    if not model.mirrors:
        raise NotApplicable("no output of the model gives an input back")


@model_check("contents", "raw contents come back unchanged, including the extremes of every datatype", _TENSORS)
def raw_comes_back(suite: Any, model: Model) -> None:
    _needs_mirror(model)
    for first in range(9):
        arrays = model.extreme_arrays(min(1 + first % 4, model.max_rows), first)
        model.check_mirrors(arrays, outputs_of(suite.target.infer(model.request(arrays))))


@model_check("contents", "typed contents give the same answer as raw ones", _CONTENTS)
def typed_equals_raw(suite: Any, model: Model) -> None:
    without = [tensor.name for tensor in model.inputs if tensor.datatype not in FIELDS]
    if without:
        raise NotApplicable(f"{', '.join(without)} can be sent raw only")
    arrays = model.arrays(min(2, model.max_rows), seed=3)
    raw = outputs_of(suite.target.infer(model.request(arrays)))
    typed = outputs_of(suite.target.infer(model.request(arrays, typed=True)))
    model.check_same(raw, typed, "typed contents")
    model.check_mirrors(arrays, typed)


@model_check("contents", "the same request gives the same answer, and rows do not affect each other", _TENSORS)
def rows_are_apart(suite: Any, model: Model) -> None:
    if model.max_rows < 2:
        raise NotApplicable("the model takes one row")
    arrays = model.arrays(2, seed=4)
    together = outputs_of(suite.target.infer(model.request(arrays)))
    for row in range(2):
        alone = outputs_of(
            suite.target.infer(model.request({name: array[row : row + 1] for name, array in arrays.items()}))
        )
        model.check_same({name: array[row : row + 1] for name, array in together.items()}, alone, f"row {row} alone")


@model_check("contents", "every datatype of the answer fills exactly its shape", _TENSORS)
def outputs_fill_their_shape(suite: Any, model: Model) -> None:
    outputs_of(suite.target.infer(model.valid_request(model.max_rows)))


@model_check("raw-only", "FP16 and BF16 in raw contents come back unchanged", _CONTENTS)
def half_floats(suite: Any, model: Model) -> None:
    halves = {tensor.name for tensor in model.inputs if tensor.datatype in ("FP16", "BF16")}
    if not halves & set(model.mirrors.values()):
        raise NotApplicable("no output gives an FP16 or BF16 input back")
    for first in range(9):
        arrays = model.extreme_arrays(1, first)
        model.check_mirrors(arrays, outputs_of(suite.target.infer(model.request(arrays))))


@model_check("raw-only", "FP16 and BF16 in typed contents are INVALID_ARGUMENT", _CONTENTS)
def typed_half_floats(suite: Any, model: Model) -> None:
    halves = [tensor for tensor in model.inputs if tensor.datatype in ("FP16", "BF16")]
    if not halves:
        raise NotApplicable("the model has no FP16 or BF16 input")
    arrays = model.arrays()
    request = model.request(arrays)
    del request.raw_input_contents[:]
    for tensor, described in zip(request.inputs, model.inputs, strict=True):
        values = arrays[tensor.name].ravel()
        field = FIELDS.get(described.datatype, "fp32_contents")
        getattr(tensor.contents, field).extend(values.astype(float).tolist() if field[:2] == "fp" else values.tolist())
    suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)


@model_check("input-order", "inputs may come in any order, raw contents in the same one", _TENSORS)
def inputs_reversed(suite: Any, model: Model) -> None:
    if len(model.inputs) < 2:
        raise NotApplicable("the model has one input")
    arrays = model.arrays(seed=5)
    backwards = dict(reversed(arrays.items()))
    expected = outputs_of(suite.target.infer(model.request(arrays)))
    came = outputs_of(suite.target.infer(model.request(backwards)))
    model.check_same(expected, came, "inputs in reverse order")
    model.check_mirrors(arrays, came)


@model_check("input-order", "raw contents of the answer are in the order of its outputs", _TENSORS)
def outputs_in_their_order(suite: Any, model: Model) -> None:
    response = suite.target.infer(model.valid_request(seed=6))
    raw = response.raw_output_contents
    if not raw:
        raise NotApplicable("the server answers in typed contents")
    expect_equal(len(raw), len(response.outputs), "number of raw contents")
    arrays = model.arrays(seed=6)
    for output, content in zip(response.outputs, raw, strict=True):
        if output.name in model.mirrors:
            sent = to_raw(arrays[model.mirrors[output.name]])
            expect_equal(content, sent, f"raw contents at the place of '{output.name}'")
        elif output.datatype != "BYTES":
            size = DTYPES[output.datatype].itemsize
            for length in output.shape:
                size *= length
            expect_equal(len(content), size, f"bytes at the place of '{output.name}'")
