"""Weights beside model.onnx are found wherever the graph keeps tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import GraphInvalid
from service.external_data import external_files
from tests.unit.service.samples import doubling, graph_model


def beside(name: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=name)
    return tensor


def write(folder: Path, model: onnx.ModelProto) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_a_graph_with_its_weights_inside_has_none(tmp_path: Path) -> None:
    model = graph_model(
        [helper.make_node("Add", ["x", "two"], ["y"])],
        [("x", TensorProto.FLOAT, ("N", 2))],
        [("y", TensorProto.FLOAT, ("N", 2))],
        {"two": np.full(2, 2, np.float32)},
    )
    assert external_files(write(tmp_path, model)) == []


def test_they_are_found_in_every_place(tmp_path: Path) -> None:
    model = doubling()
    graph = model.graph
    graph.initializer.extend([beside("initializer"), beside("initializer")])
    graph.sparse_initializer.add(values=beside("sparse values"), indices=beside("sparse indices"))
    inner = helper.make_graph([], "inner", [], [])
    inner.initializer.append(beside("inner"))
    node = graph.node.add(op_type="If")
    node.attribute.add(name="value", t=beside("attribute"))
    node.attribute.add(name="values", tensors=[beside("attributes")])
    node.attribute.add(name="then_branch", g=inner)
    node.attribute.add(name="branches", graphs=[helper.make_graph([node], "deeper", [], [])])
    sparse = onnx.SparseTensorProto(values=beside("sparse attribute"))
    node.attribute.add(name="sparse", sparse_tensor=sparse)
    node.attribute.add(name="sparses", sparse_tensors=[onnx.SparseTensorProto(values=beside("sparse attributes"))])
    function = model.functions.add(name="f", domain="d")
    function.node.add(op_type="Constant").attribute.add(name="value", t=beside("function"))
    function.attribute_proto.add(name="default", t=beside("default"))
    assert external_files(write(tmp_path, model)) == [
        "attribute",
        "attributes",
        "default",
        "function",
        "initializer",
        "inner",
        "sparse attribute",
        "sparse attributes",
        "sparse indices",
        "sparse values",
    ]


def test_a_place_that_the_runtime_does_not_look_at_does_not_count(tmp_path: Path) -> None:
    model = doubling()
    tensor = beside("elsewhere")
    tensor.data_location = TensorProto.DEFAULT
    model.graph.initializer.append(tensor)
    assert external_files(write(tmp_path, model)) == []


@pytest.mark.parametrize("content", [b"\xff", b"\x3a\xff", b"\x3a\x02\x0a\xff"])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(GraphInvalid, match=r"model\.onnx: is damaged or not an ONNX model"):
        external_files(tmp_path / "model.onnx")


def test_graphs_within_graphs_end_somewhere(tmp_path: Path) -> None:
    graph = b""
    for _ in range(150):
        for number in (6, 5, 1):  # a graph of an attribute of a node of a graph
            graph = bytes([number << 3 | 2]) + _size(graph) + graph
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + _size(graph) + graph)
    with pytest.raises(GraphInvalid, match="graphs are nested too deeply"):
        external_files(tmp_path / "model.onnx")


def _size(message: bytes) -> bytes:
    size, out = len(message), b""
    while size > 127:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return out + bytes([size])
