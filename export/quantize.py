"""Makes a graph smaller or faster: int8, float16, or a smaller table of word vectors.

Measurements decide what may cost accuracy. Which nodes stay in float32 is measured on training examples
that calibration has not seen. Whether the result is published is measured on the untouched test split.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from export.convert import quiet
from export.errors import QuantizationRefused
from service.backend.onnx import OnnxBackend

METHODS = ("int8-static", "float16", "table-float16", "table-int8")
_WEIGHTY = ("Conv", "Gemm", "MatMul")
# Operators that stay in int8 between two convolutions. Quantising Mul would round the pictures' normalisation.
_QUANTIZED = (*_WEIGHTY, "Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Relu")
_MOST_EXCLUDED = 4
_LEAST_TABLE = 10_000  # elements; a smaller initialiser is not a table of word vectors

Damage = Callable[[Path], float]


def quantize_int8(source: Path, target: Path, batches: Sequence[np.ndarray], excluded: Sequence[str]) -> None:
    """Write the graph with int8 weights, one scale per channel, and uint8 activations with calibrated ranges.

    Args:
        source: The float32 graph.
        target: The file to write.
        batches: Inputs that calibrate the ranges.
        excluded: Names of nodes to leave in float32.
    """
    with _prepared(source) as prepared:
        quantize_static(
            str(prepared),
            str(target),
            _Reader(batches, OnnxBackend(source, "cpu").inputs[0].name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(excluded),
        )


def choose_excluded(
    source: Path, batches: Sequence[np.ndarray], damage: Damage, limit: float, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the nodes to leave in float32: none, or the costliest ones until the damage is within the limit.

    At most four nodes are left out, even if the damage still exceeds the limit.

    Args:
        source: The float32 graph.
        batches: Inputs that calibrate the ranges.
        damage: Measures a quantised file, in [0, 1]; 0 is none.
        limit: Largest accepted damage.
        say: Receives one line per decision.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.onnx"

        def measure(excluded: Sequence[str]) -> float:
            quantize_int8(source, trial, batches, excluded)
            return damage(trial)

        worst = measure(())
        say(f"all nodes in int8: damage {worst:.2%}")
        if worst <= limit:
            return ()
        nodes = weighty_nodes(source)
        # Rank nodes by the damage that remains if this node alone stays in float32.
        ranked = sorted(nodes, key=lambda node: measure((node,)))
        excluded: list[str] = []
        for node in ranked[:_MOST_EXCLUDED]:
            excluded.append(node)
            came = measure(excluded)
            say(f"{', '.join(excluded)} in float32: damage {came:.2%}")
            if came <= limit:
                break
        return tuple(excluded)


def weighty_nodes(path: Path) -> list[str]:
    """Return the names of the convolutions and matrix products, as they are after preparation."""
    with _prepared(path) as prepared:
        return [node.name for node in onnx.load(prepared).graph.node if node.op_type in _WEIGHTY]


def to_float16(source: Path, target: Path) -> None:
    """Write the graph in half precision, for CUDA. Inputs and outputs keep their types."""
    with quiet():
        # The normalisation of pictures stays in float32: half precision would lose some of the 256 levels.
        model = convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=_before_first(source))
    onnx.save(model, target)


def shrink_tables(source: Path, target: Path, dtype: str) -> None:
    """Write the graph with its tables of word vectors in another type, converted to float32 after the look-up.

    Args:
        source: The graph.
        target: The file to write.
        dtype: ``"float16"``, or ``"int8"`` with one scale per word.

    Raises:
        QuantizationRefused: The graph has no table of word vectors.
    """
    model = onnx.load(source)
    tables = {t.name: t for t in model.graph.initializer if len(t.dims) == 2 and np.prod(t.dims) >= _LEAST_TABLE}
    nodes: list[onnx.NodeProto] = []
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            found.add(node.input[0])
            nodes += _look_up(model.graph, node, numpy_helper.to_array(tables[node.input[0]]).astype(np.float32), dtype)
        else:
            nodes.append(node)
    if not found:
        raise QuantizationRefused(f"{source}: has no table of word vectors; choose another --method")
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in found]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    target.write_bytes(model.SerializeToString(deterministic=True))


def _look_up(graph: onnx.GraphProto, node: onnx.NodeProto, table: np.ndarray, dtype: str) -> list[onnx.NodeProto]:
    """Return the nodes that replace one look-up in a float table, and add their tensors to the graph."""
    name, ids, out = f"{node.input[0]}_{dtype}", node.input[1], node.output[0]
    if dtype == "float16":
        graph.initializer.append(numpy_helper.from_array(table.astype(np.float16), name))
        return [
            helper.make_node("Gather", [name, ids], [f"{name}_row"], axis=0),
            helper.make_node("Cast", [f"{name}_row"], [out], to=TensorProto.FLOAT),
        ]
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(np.round(table / scale).astype(np.int8), name))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
    return [
        helper.make_node("Gather", [name, ids], [f"{name}_row"], axis=0),
        helper.make_node("Gather", [f"{name}_scale", ids], [f"{name}_row_scale"], axis=0),
        helper.make_node("Cast", [f"{name}_row"], [f"{name}_row_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_row_float", f"{name}_row_scale"], [out]),
    ]


def _before_first(source: Path) -> list[str]:
    """Return the names of the nodes before the first convolution or matrix product."""
    names = []
    for node in onnx.load(source).graph.node:
        if node.op_type in _WEIGHTY:
            break
        names.append(node.name)
    return names


@contextlib.contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """Provide the graph as the quantiser requires it, with shapes inferred, while the context lasts."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        yield prepared


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Returns each calibration input once."""

    def __init__(self, batches: Sequence[np.ndarray], name: str) -> None:
        self._left = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)
