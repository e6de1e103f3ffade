"""Publishes an ONNX file made elsewhere, wrapped so that it takes uint8 pictures or ids and returns probabilities.

The file itself is the reference. The wrapped graph must reproduce the answers that the file gives under ONNX Runtime to
ids, or to pictures that NumPy has normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export import provenance
from export.convert import OUTPUT, check_graph, input_spec, output_spec
from export.data.inputs import Inputs, TokenInputs, proving_inputs, proving_raw
from export.errors import ConversionFailed, WeightsInvalid
from export.load import Order, describe
from export.publish import Described, Say, complete, write_aside
from export.verify import are_probabilities, check_independence, doubt_of_logits, refuse_nan, verify_graph
from service.backend.onnx import OnnxBackend
from service.errors import BackendFailed, LoadError
from service.manifest import MODEL_FILE, Dataset, Provenance, file_digest
from service.spec import ImageSpec, TextSpec

_FLOATS = ("FP32", "FP16", "FP64")
_OURS = ("images", "ids", OUTPUT)
_IR_VERSION = 4  # the first that does not list weights among the inputs, where the server would require them
_MARK = "convserve_"  # prefix of the added names, so that they cannot clash with the file's


class Foreign:
    """The file's own answers, the reference that torch's model is for networks of this project."""

    def __init__(self, path: Path, spec: ImageSpec | TextSpec, *, logits: bool) -> None:
        """Open the file.

        Raises:
            ConversionFailed: It cannot be opened, has more than one input or output, or others than such a classifier.
        """
        try:
            self._backend = OnnxBackend(path, "cpu")
        except LoadError as error:
            raise ConversionFailed(str(error)) from None
        if len(self._backend.inputs) != 1 or len(self._backend.outputs) != 1:
            counts = f"{len(self._backend.inputs)} inputs and {len(self._backend.outputs)} outputs"
            raise ConversionFailed(f"{path}: has {counts}, expected one of each")
        (self.takes,) = self._backend.inputs
        axes: tuple[int, ...] = (-1,)
        datatypes: tuple[str, ...] = ("INT64", "INT32")
        expected = "INT64 or INT32 (N, L) with a dynamic length L"
        if isinstance(spec, ImageSpec):
            axes = (spec.channels, spec.height, spec.width)
            datatypes, expected = _FLOATS, f"{' or '.join(_FLOATS)} (N, {', '.join(map(str, axes))})"
        shape = self.takes.shape
        fits = len(shape) == 1 + len(axes) and all(a in (-1, b) for a, b in zip(shape[1:], axes, strict=True))
        if self.takes.datatype not in datatypes or not fits:
            raise ConversionFailed(f"{path}: takes {self.takes}, expected {expected}; export it with such an input")
        if shape[0] != -1:
            raise ConversionFailed(f"{path}: takes only batches of {shape[0]}; export it with a dynamic batch axis")
        (gives,) = self._backend.outputs
        if gives.datatype not in _FLOATS:
            raise ConversionFailed(
                f"{path}: returns {gives}, expected {' or '.join(_FLOATS)} (N, K); export what it computes labels from"
            )
        self._spec, self._logits = spec, logits

    def own_answer(self, inputs: np.ndarray) -> np.ndarray:
        """Return the file's answer to uint8 (N, H, W, C) or int64 (N, L), as float32."""
        x = inputs
        if isinstance(self._spec, ImageSpec):
            x = ((x.astype(np.float64) / 255 - self._spec.mean) / self._spec.std).transpose(0, 3, 1, 2)
        return self._backend.run([np.ascontiguousarray(x, dtype=self.takes.dtype)])[0].astype(np.float32)

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities (N, K) for the same."""
        return self.probabilities(self.own_answer(inputs))

    def probabilities(self, answer: np.ndarray) -> np.ndarray:
        """Return probabilities (N, K) for what the file itself answered."""
        if not self._logits:
            return answer
        with np.errstate(invalid="ignore"):  # infinite logits make NaN, which is refused
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
        ConversionFailed: The file has other inputs or outputs than such a classifier.
        VerificationFailed: The wrapped graph answers differently.
        PublishFailed: The version exists already, or the repository cannot be written.
    """
    path, notes = Path(order.network), list[str]()
    if order.weights is not None:
        raise WeightsInvalid(f"{path}: an ONNX file holds its own weights; leave --weights and --renames out")
    if not path.is_file():
        raise WeightsInvalid(f"{path}: no such file")
    preprocessing, labels = describe(order, None, notes)
    spec = preprocessing.spec
    for note in notes:
        say(f"note: {note}")
    with write_aside(target, version) as (aside, folder):
        reference = Foreign(path, spec, logits=logits)
        inputs = proving_inputs(preprocessing)
        if isinstance(inputs, TokenInputs):
            _check_ids(path, reference, inputs.rows, preprocessing.sizes(len(labels)).vocabulary - 1)
        answers = _answers(path, reference, inputs)
        _check_answers(path, reference, answers, len(labels), logits=logits)
        if logits and (doubt := doubt_of_logits(answers)):
            say(doubt)
        check_independence(
            str(path), reference.answer, inputs, spec, order.tolerance, padding_tolerance=order.tolerance
        )
        (aside / MODEL_FILE).write_bytes(
            wrap(onnx.load(path), spec, len(labels), logits=logits).SerializeToString(deterministic=True)
        )
        check_graph(aside / MODEL_FILE, input_spec(spec), output_spec(len(labels)))
        backend = OnnxBackend(aside / MODEL_FILE, "cpu")
        parity = verify_graph(reference, backend, inputs, max_batch_size, order.tolerance)
        say(f"verified: at most {parity.max_abs_difference:.2g} from the file's own answers on {parity.count} inputs")
        described = Described(preprocessing, labels, max_batch_size, _provenance(path))
        complete(aside, described, reference, proving_raw(preprocessing), parity)
    say(f"published: {folder}")
    return folder


def wrap(model: onnx.ModelProto, spec: ImageSpec | TextSpec, classes: int, *, logits: bool) -> onnx.ModelProto:
    """Return the model with what turns a request's tensor into its own before it, and softmax after it for logits.

    Args:
        model: The model; it is changed, so do not use it afterwards.
        spec: The pictures or sentences.
        classes: K, because the model's output need not state it.
        logits: Whether the model returns logits instead of probabilities.
    """
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    (taken,) = (value for value in graph.input if value.name not in constants)
    given, ours = graph.output[0], input_spec(spec)
    own = taken.type.tensor_type.elem_type
    source, before, added = ours.name, list[onnx.NodeProto](), list[TensorProto]()
    axes: list[str | int] = ["batch", "tokens"]
    if isinstance(spec, ImageSpec):
        before, added = _normalisation(ours.name, spec)
        source, axes = before[-1].output[0], ["batch", *spec.shape]
    before.append(helper.make_node("Cast", [source], [f"{_MARK}taken"], to=own))
    old_in, old_out = taken.name, given.name
    _rename(graph, {old_in: before[-1].output[0]})
    widened = f"{_MARK}logits" if logits else OUTPUT
    after = [helper.make_node("Cast", [_apart(old_out)], [widened], to=TensorProto.FLOAT)]
    if logits:  # by default of every opset, the softmax of a table is that of its rows
        after.append(helper.make_node("Softmax", [widened], [OUTPUT]))
    made = helper.make_graph(
        [*before, *graph.node, *after],
        "convserve",
        [helper.make_tensor_value_info(ours.name, helper.np_dtype_to_tensor_dtype(ours.dtype), axes)],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
        [*graph.initializer, *added],
    )
    made.sparse_initializer.extend(graph.sparse_initializer)
    version = max(model.ir_version, _IR_VERSION)
    wrapped = helper.make_model(made, opset_imports=list(model.opset_import), ir_version=version)
    wrapped.functions.extend(model.functions)
    return wrapped


def _normalisation(pixels: str, spec: ImageSpec) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Return the nodes that make float32 (N, C, H, W) of pixels uint8 (N, H, W, C), and their constants.

    Half precision would lose some of the 256 levels, so it comes afterwards.
    """
    mean, std = np.array(spec.mean), np.array(spec.std)
    constants = [
        numpy_helper.from_array((1 / (255 * std)).astype(np.float32), f"{_MARK}scale"),
        numpy_helper.from_array((mean / std).astype(np.float32), f"{_MARK}shift"),
    ]
    nodes = [
        helper.make_node("Cast", [pixels], [f"{_MARK}cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{_MARK}cast", f"{_MARK}scale"], [f"{_MARK}scaled"]),
        helper.make_node("Sub", [f"{_MARK}scaled", f"{_MARK}shift"], [f"{_MARK}normal"]),
        helper.make_node("Transpose", [f"{_MARK}normal"], [f"{_MARK}planes"], perm=[0, 3, 1, 2]),
    ]
    return nodes, constants


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
    return f"their_{name}" if name in _OURS else name


def _answers(path: Path, reference: Foreign, inputs: Inputs) -> np.ndarray:
    """Return the file's answers to all inputs in one batch, or refuse a file that cannot take them so."""
    try:
        return reference.own_answer(inputs.batch(np.arange(len(inputs))))
    except BackendFailed as error:
        reason = " ".join(str(error.__cause__).split())
        raise ConversionFailed(
            f"{path}: fails on a batch of {len(inputs)} ({reason}); export all of it with a dynamic batch axis"
        ) from None


def _check_answers(path: Path, reference: Foreign, answers: np.ndarray, classes: int, *, logits: bool) -> None:
    if answers.ndim != 2 or answers.shape[1] != classes:
        raise ConversionFailed(
            f"{path}: returns {answers.shape[1:]} numbers per input, expected one for each of the {classes} labels"
        )
    refuse_nan(str(path), reference.probabilities(answers))
    if logits and are_probabilities(answers):
        raise ConversionFailed(f"{path}: returns probabilities already; leave --logits out")
    if not logits and not are_probabilities(answers):
        raise ConversionFailed(f"{path}: does not return probabilities; give --logits if it returns logits")


def _check_ids(path: Path, reference: Foreign, rows: Sequence[np.ndarray], last: int) -> None:
    """Refuse a file that fails on ids that a server lets through: a caller could make a batch fail."""
    shortest, longest = min(rows, key=len), max(rows, key=len)
    for ids, what in (
        (shortest, f"a sentence of {len(shortest)} tokens"),
        (np.array([last]), f"id {last}, the tokenizer's last"),
        (longest, f"a sentence of {len(longest)} tokens, which --max-tokens allows"),
    ):
        try:
            reference.own_answer(ids[np.newaxis])
        except BackendFailed as error:
            raise ConversionFailed(f"{path}: fails on {what} ({error.__cause__})") from None


def _provenance(path: Path) -> Provenance:
    producer = onnx.load(path, load_external_data=False).producer_name or "unknown"
    return provenance.of_loaded(f"onnx file by {producer}", Dataset(f"file {path.name}", file_digest(path)))
