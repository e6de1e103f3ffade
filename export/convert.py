"""Converts a torch classifier to model.onnx and checks that it has the names, types and axes the server expects."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

from export.classifier import Probabilities
from export.errors import ConversionFailed
from service.backend.onnx import OnnxBackend
from service.spec import ImageSpec, TextSpec
from service.tensors import TensorSpec

# ONNX Runtime 1.20 runs opsets up to 21. torch's exporter is written for 18.
OPSET = 18
OUTPUT = "probabilities"
_EXAMPLE_BATCH = 2  # torch.export treats sizes 0 and 1 as constants
_EXAMPLE_TOKENS = 7
_PREFIX = re.compile(r"^classifier\.network(\.inner)?\.?")  # of the names of a network's parts


def input_spec(spec: ImageSpec | TextSpec) -> TensorSpec:
    """Return the specification of the graph's input, which requests carry."""
    if isinstance(spec, ImageSpec):
        return TensorSpec("images", "UINT8", (-1, *spec.shape))
    return TensorSpec("ids", "INT64", (-1, -1))


def output_spec(classes: int) -> TensorSpec:
    """Return the specification of the graph's output, which responses carry."""
    return TensorSpec(OUTPUT, "FP32", (-1, classes))


def convert(model: Probabilities, spec: ImageSpec | TextSpec, classes: int, path: Path) -> None:
    """Write model.onnx. Equal weights give equal bytes.

    Args:
        model: In evaluation mode, on the CPU.
        spec: The preprocessing that produces the model's input.
        classes: K.
        path: The file to write.

    Raises:
        ConversionFailed: The model is in training mode, torch cannot convert it, or the graph is not what the server
            expects.
    """
    refuse_training(model)
    graph = _export(model, input_spec(spec))
    _strip(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"the graph is not valid ONNX ({' '.join(str(error).split())})") from None
    path.write_bytes(graph.SerializeToString(deterministic=True))
    check_graph(path, input_spec(spec), output_spec(classes))


def refuse_training(model: Probabilities) -> None:
    """Refuse a model in training mode: dropout and batch statistics would be frozen into the graph.

    Raises:
        ConversionFailed: It or a part of it is.
    """
    training = [name for name, module in model.named_modules() if module.training]
    if training:
        part = _PREFIX.sub("", training[-1])
        what = f"the model is in training mode, at least its part '{part}'" if part else "the model is in training mode"
        raise ConversionFailed(f"{what}; eval() must reach all of it, so a train(mode) of its own must pass mode on")


def check_graph(path: Path, expected_input: TensorSpec, expected_output: TensorSpec) -> None:
    """Refuse a graph whose input or output has another name, type or shape.

    Raises:
        ConversionFailed: The message states what was expected and what the graph has.
    """
    backend = OnnxBackend(path, "cpu")
    for kind, expected, came in (
        ("input", [expected_input], list(backend.inputs)),
        ("output", [expected_output], list(backend.outputs)),
    ):
        if expected != came:
            shown = ", ".join(map(str, came))
            raise ConversionFailed(f"{path}: expected the {kind} {expected[0]}, the graph has {shown}")


def _export(model: Probabilities, spec: TensorSpec) -> onnx.ModelProto:
    """Trace the model with a dynamic batch and, for sentences, a dynamic length."""
    sizes = tuple(
        fixed if fixed > 0 else (_EXAMPLE_BATCH if axis == 0 else _EXAMPLE_TOKENS)
        for axis, fixed in enumerate(spec.shape)
    )
    example = torch.from_numpy(np.ones(sizes, dtype=spec.dtype))
    axes = {axis: torch.export.Dim.DYNAMIC for axis, fixed in enumerate(spec.shape) if fixed < 0}
    with quiet():
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[spec.name],
                output_names=[OUTPUT],
                opset_version=OPSET,
                optimize=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises its own classes and any of torch's
            reason: BaseException = error  # the exporter's own text is general advice with colour codes
            while reason.__cause__ is not None:
                reason = reason.__cause__
            first = (str(reason).strip().splitlines() or [""])[0]
            raise ConversionFailed(
                f"torch cannot convert this model ({type(reason).__name__}: {first}); its forward must use operators "
                "that ONNX has, must not branch on the values of a tensor or on the size of the batch, and must not "
                "take the length of a sentence for a number, as max_pool1d(x, x.shape[2]) does in place of x.amax(2)"
            ) from error
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    return graph


def _strip(graph: onnx.ModelProto) -> None:
    """Remove what differs between exports: paths of this machine, symbols, inferred shapes."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.graph.doc_string = ""
    graph.graph.name = "convserve"
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in graph.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    names = ("batch", "tokens")
    for value in (*graph.graph.input, *graph.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.HasField("dim_param"):
                dimension.dim_param = names[axis]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of torch's exporter or of the quantiser. Whatever matters is raised or checked."""
    logging.disable(logging.CRITICAL)
    try:
        aside = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(aside), contextlib.redirect_stderr(aside):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
