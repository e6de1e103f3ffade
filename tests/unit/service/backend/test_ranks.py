from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper

from service.backend.onnx import OnnxBackend
from service.backend.ranks import without_shape
from service.tensors import AnyRank


def _model(x: tuple[int, ...] | None, y: tuple[int, ...] | None) -> bytes:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (("x", x), ("y", y))]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_a_scalar_has_a_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_model((), None))
    assert without_shape(path) == {"y"}
    path.write_bytes(_model((), ()))
    assert without_shape(path) == frozenset()


def test_what_the_runtime_infers_is_known(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_model((2, 3), None))
    backend = OnnxBackend(path, "cpu")
    (x,), (y,) = backend.inputs, backend.outputs
    assert x.shape == y.shape == (2, 3)
    assert not isinstance(y, AnyRank)


def test_what_was_damaged_since_it_was_opened_is_taken_as_the_runtime_shows_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(_model(None, None) + b"\xff")
    assert without_shape(tmp_path / "model.onnx") == frozenset()
    assert without_shape(tmp_path / "gone.onnx") == frozenset()
