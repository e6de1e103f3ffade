"""Publishes an ONNX file made elsewhere, wrapped so that it takes uint8 pictures and returns probabilities.

The file itself is the reference. The wrapped graph must reproduce the answers that the file gives
under ONNX Runtime to pictures that NumPy has normalised.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export import provenance
from export.convert import OUTPUT, check_graph, input_spec, output_spec
from export.data.inputs import PictureInputs, Preprocessing, proving_pictures
from export.errors import ConversionFailed, WeightsInvalid
from export.load import Order, describe
from export.publish import Described, Say, make_manifest, write_aside, write_parts
from export.verify import are_probabilities, verify_graph, verify_version
from service.backend.onnx import OnnxBackend
from service.errors import LoadError
from service.manifest import MODEL_FILE, Dataset, Provenance, file_digest, write_manifest
from service.spec import ImageSpec

_INPUT = "images"
_IR_VERSION = 4  # the first that does not list weights among the inputs, where the server would require them
_MARK = "convserve_"  # prefix of the added names, so that they cannot clash with the file's


class Foreign:
    """The file's own answers, the reference that torch's model is for networks of this project."""

    def __init__(self, path: Path, spec: ImageSpec, *, logits: bool) -> None:
        """Open the file.

        Raises:
            ConversionFailed: It cannot be opened, has more than one input or output, or takes other pictures.
        """
        try:
            self._backend = OnnxBackend(path, "cpu")
        except LoadError as error:
            raise ConversionFailed(str(error)) from None
        if len(self._backend.inputs) != 1 or len(self._backend.outputs) != 1:
            counts = f"{len(self._backend.inputs)} inputs and {len(self._backend.outputs)} outputs"
            raise ConversionFailed(f"{path}: has {counts}, expected one of each")
        (expected,) = self._backend.inputs
        shape = (spec.channels, spec.height, spec.width)
        fits = len(expected.shape) == 4 and all(a in (-1, b) for a, b in zip(expected.shape[1:], shape, strict=True))
        if expected.datatype != "FP32" or not fits:
            raise ConversionFailed(f"{path}: takes {expected}, expected FP32 (N, {', '.join(map(str, shape))})")
        if expected.shape[0] != -1:
            raise ConversionFailed(
                f"{path}: takes only batches of {expected.shape[0]}; export it with a dynamic batch axis"
            )
        self._spec, self._logits = spec, logits

    def own_answer(self, inputs: np.ndarray) -> np.ndarray:
        """Return the file's answer to uint8 (N, H, W, C)."""
        x = (inputs.astype(np.float64) / 255 - self._spec.mean) / self._spec.std
        return self._backend.run([np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)])[0]

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities (N, K) for uint8 (N, H, W, C)."""
        answer = self.own_answer(inputs)
        if not self._logits:
            return answer
        raised = np.exp(answer.astype(np.float64) - answer.max(axis=1, keepdims=True))
        probabilities: np.ndarray = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities


def publish_foreign(
    order: Order, logits: bool, target: Path, version: int | None, max_batch_size: int, say: Say
) -> Path:
    """Wrap, verify and publish a file; see :func:`export.publish_loaded.publish_loaded`.

    Raises:
        WeightsInvalid: There is no such file, or separate weights were given although it holds its own.
        RecipeInvalid: Preprocessing or labels are missing.
        ConversionFailed: The file has other inputs or outputs than a classifier of such pictures.
        VerificationFailed: The wrapped graph answers differently.
        PublishFailed: The version exists already, or the repository cannot be written.
    """
    path, notes = Path(order.network), list[str]()
    if order.weights is not None or order.renames is not None:
        raise WeightsInvalid(f"{path}: an ONNX file holds its own weights; leave --weights and --renames out")
    if not path.is_file():
        raise WeightsInvalid(f"{path}: no such file")
    spec, labels = describe(order, None, notes)
    for note in notes:
        say(f"note: {note}")
    with write_aside(target, version) as (aside, folder):
        reference = Foreign(path, spec, logits=logits)
        inputs = PictureInputs(proving_pictures(spec))
        _check_answers(path, reference.own_answer(inputs.batch(np.arange(2))), len(labels), logits=logits)
        (aside / MODEL_FILE).write_bytes(
            wrap(onnx.load(path), spec, len(labels), logits=logits).SerializeToString(deterministic=True)
        )
        check_graph(aside / MODEL_FILE, input_spec(spec), output_spec(len(labels)))
        backend = OnnxBackend(aside / MODEL_FILE, "cpu")
        parity = verify_graph(reference, backend, inputs, max_batch_size, order.tolerance)
        say(f"verified: at most {parity.max_abs_difference:.2g} from the file's own answers on {parity.count} pictures")
        write_parts(aside, labels, Preprocessing(spec, None), reference)
        described = Described(spec, labels, max_batch_size, _provenance(path))
        write_manifest(make_manifest(described, (), parity, aside), aside)
        verify_version(aside)
    say(f"published: {folder}")
    return folder


def wrap(model: onnx.ModelProto, spec: ImageSpec, classes: int, *, logits: bool) -> onnx.ModelProto:
    """Return the model with normalisation and transposition before it, and softmax after it if it returns logits.

    Args:
        model: The model; it is changed, so do not use it afterwards.
        spec: The pictures.
        classes: K, because the model's output need not state it.
        logits: Whether the model returns logits instead of probabilities.

    Raises:
        ConversionFailed: The result is not valid.
    """
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    (taken,) = (value for value in graph.input if value.name not in constants)
    given = graph.output[0]
    mean, std = np.array(spec.mean), np.array(spec.std)
    added = [
        numpy_helper.from_array((1 / (255 * std)).astype(np.float32), f"{_MARK}scale"),
        numpy_helper.from_array((mean / std).astype(np.float32), f"{_MARK}shift"),
    ]
    before = [
        helper.make_node("Cast", [_INPUT], [f"{_MARK}float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{_MARK}float", f"{_MARK}scale"], [f"{_MARK}scaled"]),
        helper.make_node("Sub", [f"{_MARK}scaled", f"{_MARK}shift"], [f"{_MARK}normal"]),
        helper.make_node("Transpose", [f"{_MARK}normal"], [f"{_MARK}planes"], perm=[0, 3, 1, 2]),
    ]
    old_in, old_out = taken.name, given.name
    _rename(graph, {old_in: f"{_MARK}planes"})
    last = helper.make_node("Softmax" if logits else "Identity", [_apart(old_out)], [OUTPUT])
    if logits:
        last.attribute.append(helper.make_attribute("axis", 1))
    nodes = [*before, *graph.node, last]
    made = helper.make_graph(
        nodes,
        "convserve",
        [helper.make_tensor_value_info(_INPUT, TensorProto.UINT8, ["batch", *spec.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
        [*graph.initializer, *added],
    )
    version = max(model.ir_version, _IR_VERSION)
    wrapped = helper.make_model(made, opset_imports=list(model.opset_import), ir_version=version)
    wrapped.functions.extend(model.functions)
    try:
        onnx.checker.check_model(wrapped)
    except onnx.checker.ValidationError as error:
        raise ConversionFailed(f"the wrapped graph is not valid ONNX ({' '.join(str(error).split())})") from None
    return wrapped


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename nodes' tensors and weights, also inside branches of ``If`` and bodies of loops."""

    def ours(name: str) -> str:
        return names.get(name) or _apart(name)

    for node in graph.node:
        node.input[:] = [ours(name) for name in node.input]
        node.output[:] = [ours(name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, names)
                for value in (*inner.input, *inner.output, *inner.value_info):
                    value.name = ours(value.name)
    for initializer in graph.initializer:
        initializer.name = ours(initializer.name)


def _apart(name: str) -> str:
    """Rename a tensor of the file that has the name of the version's input or output; an empty name stays empty."""
    return f"their_{name}" if name in (_INPUT, OUTPUT) else name


def _check_answers(path: Path, answers: np.ndarray, classes: int, *, logits: bool) -> None:
    if answers.ndim != 2 or answers.shape[1] != classes:
        raise ConversionFailed(
            f"{path}: returns {answers.shape[1:]} numbers per picture, expected one for each of the {classes} labels"
        )
    if logits and are_probabilities(answers):
        raise ConversionFailed(f"{path}: returns probabilities already; leave --logits out")
    if not logits and not are_probabilities(answers):
        raise ConversionFailed(f"{path}: does not return probabilities; give --logits if it returns logits")


def _provenance(path: Path) -> Provenance:
    producer = onnx.load(path, load_external_data=False).producer_name or "unknown"
    return provenance.of_loaded(f"onnx file by {producer}", Dataset(f"file {path.name}", file_digest(path)))
