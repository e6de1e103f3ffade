"""Small ONNX graphs without a manifest, each for one property that a test needs.

Loading runs every graph on zeros, so each of them must be quick, and succeed, on zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.tensors import DTYPES

_OPSET = [helper.make_opsetid("", 17)]
_IR_VERSION = 8
_LOOP_SIZE = 96


def _tensor(name: str, kind: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=_OPSET, ir_version=_IR_VERSION)


def add_sub(offset: float = 0.0) -> onnx.ModelProto:
    """Two inputs FP32 (N, 4), two outputs: ``sum`` = a + b + offset, ``difference`` = a - b."""
    shape = ("N", 4)
    nodes = [
        helper.make_node("Add", ["a", "b"], ["plain"]),
        helper.make_node("Add", ["plain", "offset"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    inputs = [_tensor(name, TensorProto.FLOAT, shape) for name in ("a", "b")]
    outputs = [_tensor(name, TensorProto.FLOAT, shape) for name in ("sum", "difference")]
    return _model(nodes, inputs, outputs, [numpy_helper.from_array(np.float32(offset), "offset")])


def scaled(factor: float = 2.0) -> onnx.ModelProto:
    """Give FP32 (N, 2) times ``factor`` [1] back, an input that may be left out."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    inputs = [_tensor("x", TensorProto.FLOAT, ("N", 2)), _tensor("factor", TensorProto.FLOAT, (1,))]
    default = numpy_helper.from_array(np.array([factor], np.float32), "factor")
    return _model([node], inputs, [_tensor("y", TensorProto.FLOAT, ("N", 2))], [default])


def identity(kind: int, shape: Sequence[int | str] | None) -> onnx.ModelProto:
    """Give ``x`` back as ``y``; without a shape, of any rank."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])], [_tensor("x", kind, shape)], [_tensor("y", kind, shape)]
    )


def every_datatype(*without: str) -> onnx.ModelProto:
    """Give one tensor (N, 2) of each datatype back: ``x_INT8`` as ``y_INT8``, and so on."""
    numbers = {name: dtype for name, dtype in DTYPES.items() if name not in ("BYTES", "BF16")}
    kinds = {name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype in numbers.items()}
    kinds["BYTES"] = TensorProto.STRING
    kinds = {name: kind for name, kind in kinds.items() if name not in without}
    nodes = [helper.make_node("Identity", [f"x_{name}"], [f"y_{name}"]) for name in kinds]
    inputs, outputs = (
        [_tensor(f"{prefix}_{name}", kind, ("N", 2)) for name, kind in kinds.items()] for prefix in ("x", "y")
    )
    return _model(nodes, inputs, outputs)


def look_up() -> onnx.ModelProto:
    """Look INT64 (N, 1) up in a table of four; any other index fails at run time."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")
    node = helper.make_node("Gather", ["table", "index"], ["value"])
    inputs = [_tensor("index", TensorProto.INT64, ("N", 1))]
    return _model([node], inputs, [_tensor("value", TensorProto.FLOAT, ("N", 1))], [table])


def words(tables: Mapping[str, Sequence[bytes]]) -> onnx.ModelProto:
    """Look INT64 ``index`` (N, 1) up in tables of texts, each an output of its name."""
    nodes = [helper.make_node("Gather", [f"{name}s", "index"], [name]) for name in tables]
    constants = [helper.make_tensor(f"{name}s", TensorProto.STRING, [len(t)], t) for name, t in tables.items()]
    outputs = [_tensor(name, TensorProto.STRING, ("N", 1)) for name in tables]
    return _model(nodes, [_tensor("index", TensorProto.INT64, ("N", 1))], outputs, constants)


def hungry() -> onnx.ModelProto:
    """Allocate as many floats as the largest element of INT64 ``count`` (N, 1) says; give ``count`` back as ``y``."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    nodes = [
        helper.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
        helper.make_node("Reshape", ["most", "one"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Cast", ["zero"], ["nothing"], to=TensorProto.INT64),
        helper.make_node("Add", ["count", "nothing"], ["y"]),
    ]
    shape = ("N", 1)
    return _model(nodes, [_tensor("count", TensorProto.INT64, shape)], [_tensor("y", TensorProto.INT64, shape)], [one])


def loop() -> onnx.ModelProto:
    """Multiply two matrices as often as the greatest of ``iterations`` INT64 (N, 1) says, then give it back."""
    most = [helper.make_node("ReduceMax", ["iterations"], ["most"], keepdims=0)]
    return _looping(most)


def endless() -> onnx.ModelProto:
    """As :func:`loop`, but whatever ``iterations`` says: loading it takes years."""
    return _looping([], [numpy_helper.from_array(np.int64(2**60), "most")])


def _looping(most: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto] = ()) -> onnx.ModelProto:
    size = _LOOP_SIZE
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "body",
        [
            _tensor("iteration", TensorProto.INT64, ()),
            _tensor("go_on", TensorProto.BOOL, ()),
            _tensor("state", TensorProto.FLOAT, (size, size)),
        ],
        [_tensor("goes_on", TensorProto.BOOL, ()), _tensor("next", TensorProto.FLOAT, (size, size))],
    )
    nodes = [
        *most,
        helper.make_node("Loop", ["most", "", "matrix"], ["product"], body=body),
        helper.make_node("ReduceMin", ["product"], ["least"], keepdims=0),
        helper.make_node("Cast", ["least"], ["nought"], to=TensorProto.INT64),
        helper.make_node("Add", ["iterations", "nought"], ["done"]),
    ]
    shape = ("N", 1)
    inputs, outputs = ([_tensor(name, TensorProto.INT64, shape)] for name in ("iterations", "done"))
    matrix = numpy_helper.from_array(np.eye(size, dtype=np.float32), "matrix")
    return _model(nodes, inputs, outputs, [matrix, *constants])


def as_wide_as_it_says() -> onnx.ModelProto:
    """Repeat INT64 (N, 1) as often as its largest element says, once at least: so wide is ``y`` for the whole batch.

    Rows of 0 and 1, which loading tries, show nothing of it.
    """
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["greatest"], axes=[0], keepdims=0),
        helper.make_node("Max", ["greatest", "one"], ["most"]),
        helper.make_node("Concat", ["one", "most"], ["shape"], axis=0),
        helper.make_node("Expand", ["x", "shape"], ["y"]),
    ]
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    inputs, outputs = (
        [_tensor(name, TensorProto.INT64, shape)] for name, shape in (("x", ("N", 1)), ("y", ("N", "M")))
    )
    return _model(nodes, inputs, outputs, [one])


def running_sums() -> onnx.ModelProto:
    """Add FP32 (T, 2) up along its first axis, which is free and no batch."""
    first = numpy_helper.from_array(np.array(0, np.int64), "first")
    inputs, outputs = ([_tensor(name, TensorProto.FLOAT, ("T", 2))] for name in ("x", "sums"))
    return _model([helper.make_node("CumSum", ["x", "first"], ["sums"])], inputs, outputs, [first])


def products() -> onnx.ModelProto:
    """Multiply FP32 (N, 2) with its transpose: ``y`` (N, N) tells every row of every other."""
    nodes = [helper.make_node("Transpose", ["x"], ["turned"]), helper.make_node("MatMul", ["x", "turned"], ["y"])]
    return _model(nodes, [_tensor("x", TensorProto.FLOAT, ("N", 2))], [_tensor("y", TensorProto.FLOAT, ("N", "N"))])


def scores() -> onnx.ModelProto:
    """Score FP32 ``a`` (Q, D) with ``b`` (D, P), which is as free: ``y`` (Q, P)."""
    inputs = [_tensor("a", TensorProto.FLOAT, ("Q", "D")), _tensor("b", TensorProto.FLOAT, ("D", "P"))]
    return _model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])], inputs, [_tensor("y", TensorProto.FLOAT, ("Q", "P"))]
    )


def places() -> onnx.ModelProto:
    """Tell where FP32 (N, 2) is not zero: as many rows of ``y`` INT64 (M, 2) as there are such places."""
    nodes = [helper.make_node("NonZero", ["x"], ["columns"]), helper.make_node("Transpose", ["columns"], ["y"])]
    return _model(nodes, [_tensor("x", TensorProto.FLOAT, ("N", 2))], [_tensor("y", TensorProto.INT64, ("M", 2))])


def quotients() -> onnx.ModelProto:
    """Divide INT32 (N, 1) 100 by ``x``; zeros fail at run time."""
    hundred = numpy_helper.from_array(np.array([100], np.int32), "hundred")
    inputs, outputs = ([_tensor(name, TensorProto.INT32, ("N", 1))] for name in ("x", "y"))
    return _model([helper.make_node("Div", ["hundred", "x"], ["y"])], inputs, outputs, [hundred])


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "add-sub": add_sub,
    "bfloat16": lambda: identity(TensorProto.BFLOAT16, ("N", 3)),
    "datatypes": every_datatype,
    "datatypes-typed": lambda: every_datatype("FP16"),  # which has no typed contents
    "fixed": lambda: identity(TensorProto.FLOAT, (2, 3)),
    "grid": lambda: identity(TensorProto.FLOAT, ("N", 2, 3)),
    "look-up": look_up,
    "loop": loop,
    "scalar": lambda: identity(TensorProto.FLOAT, ()),
    "scalar-text": lambda: identity(TensorProto.STRING, ()),
    "scaled": scaled,
    "scores": lambda: identity(TensorProto.UINT8, ("N", 3)),
    "strings": lambda: identity(TensorProto.STRING, ("N", 1)),
}


def write(repository: Path, name: str, model: onnx.ModelProto, version: int = 1) -> Path:
    """Put a graph into a repository; return the version's folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    return folder


def spread(width: int) -> onnx.ModelProto:
    """Give FP32 (N, 1) back as ``largest``, by way of (N, width)."""
    nodes = [
        helper.make_node("MatMul", ["x", "ones"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["largest"], axes=[1], keepdims=1),
    ]
    ones = numpy_helper.from_array(np.ones((1, width), np.float32), "ones")
    shape = ("N", 1)
    inputs, outputs = [_tensor("x", TensorProto.FLOAT, shape)], [_tensor("largest", TensorProto.FLOAT, shape)]
    return _model(nodes, inputs, outputs, [ones])


def widened(width: int) -> onnx.ModelProto:
    """Give FP32 (N, 1) back as ``wide`` (N, width): a small question with a large answer."""
    node = helper.make_node("MatMul", ["x", "ones"], ["wide"])
    ones = numpy_helper.from_array(np.ones((1, width), np.float32), "ones")
    return _model(
        [node], [_tensor("x", TensorProto.FLOAT, ("N", 1))], [_tensor("wide", TensorProto.FLOAT, ("N", width))], [ones]
    )
