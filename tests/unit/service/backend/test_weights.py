"""Weights beside model.onnx: a session that is open no longer depends on their file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.backend.onnx import OnnxBackend
from service.backend.weights import read_weights
from service.errors import GraphInvalid

WIDTH = 5000


def write(folder: Path, place: str) -> Path:
    """Write a graph that adds ones, which are in a file of their own; return model.onnx."""
    ones = numpy_helper.from_array(np.ones((1, WIDTH), np.float32), "ones")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "ones"], ["y"])],
        "adds",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", WIDTH])],
        [ones],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / place).parent.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=place, size_threshold=0)
    return folder / "model.onnx"


@pytest.mark.skipif(
    not hasattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory"),
    reason="this ONNX Runtime maps the file",
)
@pytest.mark.parametrize("place", ["weights.bin", "weights/1.bin"])
def test_weights_that_are_written_over_in_place_change_no_answer(tmp_path: Path, place: str) -> None:
    backend = OnnxBackend(write(tmp_path, place), "cpu")
    with (tmp_path / place).open("r+b") as file:
        file.write(np.full(WIDTH, 9, np.float32).tobytes())
    (answer,) = backend.run([np.ones((2, 1), np.float32)])
    assert (answer == 2).all()


def test_weights_that_are_cut_short_or_missing_are_refused(tmp_path: Path) -> None:
    model = write(tmp_path, "weights.bin")
    os.truncate(tmp_path / "weights.bin", 100)
    with pytest.raises(GraphInvalid):
        OnnxBackend(model, "cpu")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(GraphInvalid, match=r"put the files that the model names into the version's folder"):
        OnnxBackend(model, "cpu")


@pytest.mark.parametrize("place", ["../weights.bin", "/nowhere/weights.bin"])
def test_weights_elsewhere_are_left_to_the_runtime(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    model = onnx.load(write(folder, "weights.bin"), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = place
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    assert read_weights(folder / "model.onnx", ort.SessionOptions()) == []


def test_what_is_no_model_is_left_to_the_runtime(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert read_weights(tmp_path / "model.onnx", ort.SessionOptions()) == []
    with pytest.raises(GraphInvalid):
        OnnxBackend(tmp_path / "model.onnx", "cpu")
