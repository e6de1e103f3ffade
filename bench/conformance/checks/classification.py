"""classification: an output asked for as its best classes."""

from __future__ import annotations

import math
from typing import Any

import grpc
import numpy as np

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import NotApplicable, expect, expect_equal, shortened
from bench.conformance.registry import model_check
from bench.conformance.tensors import Tensor
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, extension_classification.md"


def _ranked(model: Model) -> list[Tensor]:
    """Return the outputs that hold floating-point numbers."""
    outputs = [output for output in model.outputs if output.datatype in ("FP32", "FP64")]
    if not outputs:
        raise NotApplicable("the model has no output of FP32 or FP64")
    return outputs


def _request(model: Model, rows: int, outputs: list[str], classes: int) -> pb.ModelInferRequest:
    request = model.request(model.arrays(rows, seed=10), outputs)
    for output in request.outputs:
        output.parameters["classification"].int64_param = classes
    return request


def _check_row(row: list[bytes], values: np.ndarray, classes: int) -> None:
    """Check one row's ``value:index`` or ``value:index:label`` against the tensor's values."""
    expect_equal(len(row), min(classes, values.size), "classes in a row")
    parts = [element.decode().split(":", 2) for element in row]
    expect(all(len(part) >= 2 for part in parts), "value:index or value:index:label", row)
    scores = [float(part[0]) for part in parts]
    indices = [int(part[1]) for part in parts]
    expect(scores == sorted(scores, reverse=True), "falling values", shortened(row))
    expect_equal(len(set(indices)), len(indices), "number of different classes")
    for score, index in zip(scores, indices, strict=True):
        expect(0 <= index < values.size, f"an index below {values.size}", index)
        close = math.isclose(score, float(values[index]), rel_tol=1e-3, abs_tol=2e-6)
        expect(close, f"value {values[index]} of class {index}", score)
    best = sorted(values.tolist(), reverse=True)[: len(scores)]
    expect(np.allclose(scores, best, rtol=1e-3, atol=2e-6), f"the best values {best}", scores)


@model_check("classification", "gives value:index[:label] of the best classes, best first", _SOURCE)
def best_classes(suite: Any, model: Model) -> None:
    suite.needs_extension("classification")
    rows = min(2, model.max_rows)
    every = outputs_of(suite.target.infer(model.request(model.arrays(rows, seed=10))))
    for output in _ranked(model):
        values = every[output.name].reshape(rows if model.batched else 1, -1)
        for classes in (1, 2, values.shape[1] + 5):
            response = suite.target.infer(_request(model, rows, [output.name], classes))
            expect_equal([(o.name, o.datatype) for o in response.outputs], [(output.name, "BYTES")], "outputs")
            kept = min(classes, values.shape[1])
            shape = [rows, kept] if model.batched else [kept]
            expect_equal(list(response.outputs[0].shape), shape, f"shape of {classes} classes")
            came = outputs_of(response)[output.name].reshape(len(values), -1)
            for row, scores in zip(came.tolist(), values, strict=True):
                _check_row(row, scores, classes)


@model_check("classification", "several outputs can be asked for as classes at once", _SOURCE)
def several_outputs(suite: Any, model: Model) -> None:
    suite.needs_extension("classification")
    names = [output.name for output in _ranked(model)]
    if len(names) < 2:
        raise NotApplicable("the model has one output of FP32 or FP64")
    response = suite.target.infer(_request(model, 1, names, 1))
    expect_equal({o.name: o.datatype for o in response.outputs}, dict.fromkeys(names, "BYTES"), "outputs")


@model_check("classification", "zero classes are INVALID_ARGUMENT", f"{_SOURCE}; the code: Triton")
def no_classes(suite: Any, model: Model) -> None:
    suite.needs_extension("classification")
    for classes in (0, -1):
        request = _request(model, 1, [_ranked(model)[0].name], classes)
        suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)


@model_check("classification", "a number of classes that is text is INVALID_ARGUMENT", f"{_SOURCE}; the code: Triton")
def classes_of_text(suite: Any, model: Model) -> None:
    suite.needs_extension("classification")
    request = _request(model, 1, [_ranked(model)[0].name], 1)
    request.outputs[0].parameters["classification"].string_param = "3"
    suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)
