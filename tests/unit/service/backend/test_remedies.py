"""What ONNX Runtime refuses, with what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from service.backend.onnx import OnnxBackend
from service.backend.remedies import not_opened
from service.errors import GraphInvalid, GraphNotRunnable, OutOfMemory


def _model(
    operator: str = "Relu", kind: int = TensorProto.FLOAT, opset: int = 17, ir_version: int = 8, **attributes: str
) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"] * (2 if operator == "Mul" else 1), ["y"], **attributes)
    ends = [[helper.make_tensor_value_info(name, kind, (1, 3))] for name in ("x", "y")]
    graph = helper.make_graph([node], "graph", *ends)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def _of_others() -> onnx.ModelProto:
    model = _model("Theirs")
    model.graph.node[0].domain = "their.operators"
    model.opset_import.append(helper.make_opsetid("their.operators", 1))
    return model


def _without_its_weights() -> onnx.ModelProto:
    model = _model("MatMul")
    weights = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    set_external_data(weights, "weights.bin")
    weights.ClearField("raw_data")
    model.graph.node[0].input.append("w")
    model.graph.initializer.append(weights)
    return model


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        pytest.param(lambda: _model(ir_version=99), "older IR version", id="IR version"),
        pytest.param(lambda: _model(opset=99), "older opset", id="opset"),
        pytest.param(_of_others, "standard ONNX operators", id="another's operator"),
        pytest.param(lambda: _model("Theirs"), "standard ONNX operators", id="no operator"),
        pytest.param(lambda: _model("Mul", TensorProto.BFLOAT16), "in float32", id="no kernel"),
        pytest.param(_without_its_weights, "beside model.onnx", id="weights in another file"),
        pytest.param(
            lambda: _model("StringNormalizer", TensorProto.STRING, case_change_action="LOWER", locale="tlh_QO"),
            "locales-all",
            id="locale",
        ),
    ],
)
def test_says_what_helps_in_one_line(make: Callable[[], onnx.ModelProto], remedy: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(GraphNotRunnable) as caught:
        OnnxBackend(path, "cpu")
    said = str(caught.value)
    assert said.startswith(f"{path}: ONNX Runtime cannot open it (")
    assert remedy in said.rpartition("): ")[2]
    assert "\n" not in said


def test_says_no_more_than_onnx_runtime_where_nothing_is_known_to_help() -> None:
    assert str(not_opened(Fail("some news"))) == "ONNX Runtime cannot open it (some news)"


def _given_as(node: onnx.NodeProto, output: onnx.ValueInfoProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N",))], [output]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(
            _given_as(
                helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E5M2),
                helper.make_tensor_value_info("y", TensorProto.FLOAT8E5M2, ("N",)),
            ),
            "tensor(float8e5m2), which the protocol does not have: cast it to a supported type inside the graph",
            id="small numbers",
        ),
        pytest.param(
            _given_as(
                helper.make_node("SequenceConstruct", ["x"], ["y"]),
                helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ("N",)),
            ),
            "seq(tensor(float)), which the protocol does not have: export it with tensors only "
            "(skl2onnx: options={'zipmap': False})",
            id="sequence",
        ),
    ],
)
def test_says_which_type_no_message_holds(model: onnx.ModelProto, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphNotRunnable) as caught:
        OnnxBackend(path, "cpu")
    assert str(caught.value) == f"{path}: tensor 'y' has type {said}"


@pytest.mark.parametrize("content", [b"", b"no graph"])
def test_what_is_no_graph_is_damaged(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphInvalid, match="copy or export it again") as caught:
        OnnxBackend(path, "cpu")
    assert not isinstance(caught.value, GraphNotRunnable)
    assert "Git LFS" not in str(caught.value)


def test_a_pointer_of_git_lfs_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(GraphInvalid, match=r"; it is a Git LFS pointer, not the file itself: run `git lfs pull`$"):
        OnnxBackend(path, "cpu")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Fail("[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:std::bad_alloc"), id="C++"),
        pytest.param(
            RuntimeException(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: bfc_arena.cc:376 "
                "Failed to allocate memory for requested buffer of size 1600000000"
            ),
            id="arena",
        ),
        pytest.param(RuntimeError("CUDA failure 2: out of memory ; GPU=0"), id="CUDA"),
        pytest.param(MemoryError(), id="Python"),
    ],
)
def test_what_does_not_fit_into_memory_is_no_fault_of_the_graph(error: Exception) -> None:
    refusal = not_opened(error)
    assert isinstance(refusal, OutOfMemory)
    assert str(refusal).startswith("memory ran out as ONNX Runtime opened it (")
