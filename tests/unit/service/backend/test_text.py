"""Text among the outputs that is not UTF-8, which ONNX Runtime's Python API cannot hand over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.backend.onnx import OnnxBackend
from service.errors import BackendFailed, OutputNotText


class Watched:
    """A session that notes which outputs it is asked for, and may be interrupted once it has run."""

    def __init__(self, backend: OnnxBackend, *, interrupt: bool = False) -> None:
        self.asked: list[Sequence[str]] = []
        self._backend = backend
        self._session = backend._session
        self._interrupt = interrupt
        backend._session = self

    def run(self, names: Sequence[str], *rest: Any) -> Any:
        self.asked.append(names)
        try:
            return self._session.run(names, *rest)
        finally:
            if self._interrupt:
                self._backend.interrupt()


def _backend(folder: Path, texts: dict[str, bytes]) -> OnnxBackend:
    """Return a backend of constants that are looked up."""
    index = helper.make_tensor_value_info("index", TensorProto.INT64, ["N"])
    graph = helper.make_graph(
        [helper.make_node("Gather", [f"{name}s", "index"], [name]) for name in texts],
        "graph",
        [index],
        [helper.make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in texts],
        [helper.make_tensor(f"{name}s", TensorProto.STRING, [1], [text]) for name, text in texts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return OnnxBackend(folder / "model.onnx", "cpu")


ZERO = [np.zeros(1, np.int64)]


def test_the_only_output_is_named_without_another_run(tmp_path: Path) -> None:
    backend = _backend(tmp_path, {"word": b"\xff"})
    session = Watched(backend)
    with pytest.raises(OutputNotText, match="output 'word' has text"):
        backend.run(ZERO)
    assert session.asked == [["word"]]


def test_of_several_the_one_is_named(tmp_path: Path) -> None:
    backend = _backend(tmp_path, {"word": b"yes", "other": b"\xff"})
    session = Watched(backend)
    with pytest.raises(OutputNotText, match="output 'other' has text"):
        backend.run(ZERO)
    assert session.asked == [["word", "other"], ["word"], ["other"]]


def test_who_is_interrupted_meanwhile_fails_as_any_batch_does(tmp_path: Path) -> None:
    backend = _backend(tmp_path, {"word": b"yes", "other": b"\xff"})
    Watched(backend, interrupt=True)
    with pytest.raises(BackendFailed, match="the runtime failed on this batch"):
        backend.run(ZERO)
