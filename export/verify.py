"""Verifies that a graph reproduces torch's answers, and that a published version matches its manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from export.classifier import Classifier, Probabilities
from export.data.inputs import Inputs, Preprocessing, TokenInputs
from export.errors import ConversionFailed, VerificationFailed
from export.recipe import Recipe
from export.sentence_nets import check_padding
from service.backend.base import Backend
from service.backend.onnx import OnnxBackend
from service.digests import check_digests
from service.golden import Golden, read_golden
from service.manifest import GOLDEN_FILE, MODEL_FILE, Manifest, Parity, read_labels, read_manifest
from service.spec import ImageSpec, TextSpec

# Largest absolute difference of a probability between torch and ONNX Runtime.
TOLERANCE = 1e-5
_BATCH_SIZES = (1, 2, 7, 32)
_BATCHES_A_SIZE = 8
_BY_ROUNDING = 10  # times the tolerance: what rounds as much would not pass verification either


class Reference(Protocol):
    """What a graph is compared with: torch's model, or the ONNX file that was wrapped."""

    def answer(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities (N, K) for one batch."""
        ...


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Return the sizes at which a graph is verified, up to the largest."""
    return (*(size for size in _BATCH_SIZES if size < largest), largest)


def verify_graph(
    model: Reference, backend: Backend, inputs: Inputs, max_batch_size: int, tolerance: float = TOLERANCE
) -> Parity:
    """Compare torch and the graph on real inputs: all of them once, and some at each batch size.

    Args:
        model: The torch side, in evaluation mode, on the CPU; or another reference.
        backend: The graph.
        inputs: Inputs of the whole test set, at least one.
        max_batch_size: Largest batch to verify; see :func:`batch_sizes`.
        tolerance: Largest accepted absolute difference of a probability.

    Raises:
        VerificationFailed: A probability differs by more or is not a number, or a top-1 differs.
    """
    sizes = batch_sizes(max_batch_size)
    worst = 0.0
    for size in sizes:
        for indices in _batches(len(inputs), size)[:_BATCHES_A_SIZE]:
            batch = inputs.batch(indices)
            where = f"batch size {size}, inputs from {indices[0]}"
            worst = max(worst, _difference(model.answer(batch), backend.run([batch])[0], tolerance, where))
    same = 0
    for start in range(0, len(inputs), max(sizes)):
        indices = np.arange(start, min(start + max(sizes), len(inputs)))
        batch = inputs.batch(indices)
        expected, came = model.answer(batch), backend.run([batch])[0]
        worst = max(worst, _difference(expected, came, tolerance, f"inputs from {start}"))
        same += int((expected.argmax(axis=1) == came.argmax(axis=1)).sum())
    if same < len(inputs):
        raise VerificationFailed(f"the graph's top-1 is another on {len(inputs) - same} of {len(inputs)} inputs")
    return Parity(tolerance, worst, sizes, same / len(inputs), len(inputs))


def verify_version(version_dir: Path, manifest: Manifest | None = None) -> tuple[Manifest, float]:
    """Check a published version as the server does: digests, graph, labels, golden answers at each batch size.

    Args:
        version_dir: The version.
        manifest: The manifest to check against; None for the version's own.

    Returns:
        The manifest, and the largest absolute difference from a golden answer.

    Raises:
        LoadError: The manifest or the graph cannot be read, or a file's digest differs from the manifest.
        VerificationFailed: The version contradicts its manifest in another way.
    """
    manifest = manifest or read_manifest(version_dir)
    path = version_dir / MODEL_FILE
    check_digests(manifest, version_dir)
    backend = OnnxBackend(path, "cpu")
    came = (tuple(backend.inputs), tuple(backend.outputs))
    if came != (manifest.inputs, manifest.outputs):
        shown = ", ".join(str(spec) for specs in came for spec in specs)
        raise VerificationFailed(f"{path}: the graph has {shown}, the manifest says otherwise")
    if manifest.labels_file is not None:
        count, classes = len(read_labels(version_dir / manifest.labels_file)), manifest.outputs[0].shape[1]
        if count != classes:
            raise VerificationFailed(f"{version_dir / manifest.labels_file}: has {count} labels for {classes} classes")
    golden = read_golden(version_dir / GOLDEN_FILE)
    _check_golden_inputs(version_dir, manifest, golden)
    return manifest, _check_golden_answers(backend, golden, manifest.parity)


def verify_run(
    version_dir: Path, recipe: Recipe, preprocessing: Preprocessing, classifier: Classifier, inputs: Inputs
) -> Parity:
    """Compare a published version with the run it came from: labels, tokenizer, then every answer on the test set.

    Raises:
        LoadError: The manifest, the graph, the labels or the tokenizer cannot be read.
        VerificationFailed: The labels, the tokenizer or an answer differ.
    """
    manifest = read_manifest(version_dir)
    labels = read_labels(version_dir / manifest.labels_file) if manifest.labels_file else ()
    if labels != recipe.data.labels:
        raise VerificationFailed(
            f"{version_dir}: labels are {', '.join(labels)}; the run has {', '.join(recipe.data.labels)}"
        )
    if manifest.preprocessing is not None:
        published = Preprocessing.from_dir(manifest.preprocessing, version_dir)
        if published.tokenizer_text != preprocessing.tokenizer_text:
            raise VerificationFailed(f"{version_dir}: its tokenizer is not the run's")
    classifier.network.compact()
    backend = OnnxBackend(version_dir / MODEL_FILE, "cpu")
    model = Probabilities(classifier).eval()
    return verify_graph(model, backend, inputs, manifest.max_batch_size, manifest.parity.tolerance)


def largest_difference(expected: np.ndarray, came: np.ndarray) -> float:
    """Return the largest absolute difference; infinite if shapes differ or a value is not a number."""
    if expected.shape != came.shape:
        return float("inf")
    difference = float(np.abs(expected.astype(np.float64) - came).max())
    return difference if np.isfinite(difference) else float("inf")


def are_probabilities(answers: np.ndarray) -> bool:
    """Return whether every row (K,) looks like probabilities: none negative, sum 1. Logits hardly ever do."""
    return bool(answers.min() >= -1e-6 and np.abs(answers.sum(axis=1) - 1).max() <= 1e-3)


def refuse_nan(name: str, probabilities: np.ndarray) -> None:
    """Refuse a network some of whose answers (N, K) are not numbers.

    Raises:
        ConversionFailed: The message states for how many inputs.
    """
    if broken := _count_nan(probabilities):
        raise ConversionFailed(
            f"{name}: answers NaN or infinity for {broken} of {len(probabilities)} inputs; its weights are damaged, or "
            "mean and std are not its own"
        )


def doubt_of_logits(answers: np.ndarray) -> str:
    """Return a note if all numbers lie between 0 and 1, as a sigmoid's do and logits may, else an empty string."""
    if answers.min() <= 0 or answers.max() > 1:
        return ""
    return "note: all answers lie between 0 and 1; if a sigmoid gives them, remove it, because load adds softmax"


def rounding_within(tolerance: float) -> float:
    """Return by how much a network's own answers to one input may differ under a verification's tolerance."""
    return _BY_ROUNDING * max(tolerance, TOLERANCE)


def check_independence(
    name: str,
    answer: Callable[[np.ndarray], np.ndarray],
    inputs: Inputs,
    spec: ImageSpec | TextSpec,
    tolerance: float,
    padding_tolerance: float,
) -> None:
    """Refuse a network whose answer depends on more than its input: on chance, on padding, or on the rest of a batch.

    Args:
        name: Of the network, for messages.
        answer: Returns probabilities (N, K) for inputs (N, ...).
        inputs: At least two.
        spec: Says what sentences are padded with.
        tolerance: That of the verification; what rounds by less than ten times as much counts as the same.
        padding_tolerance: By how much padding may change a probability.

    Raises:
        ConversionFailed: A probability differs by more.
    """
    rounding = rounding_within(tolerance)
    alone, pair, every = (inputs.batch(np.arange(count)) for count in (1, 2, len(inputs)))
    if np.abs(answer(pair) - answer(pair)).max() > rounding:
        raise ConversionFailed(
            f"{name}: answers the same inputs differently each time; its forward is random or keeps state, "
            "such as F.dropout without training=self.training"
        )
    if isinstance(inputs, TokenInputs) and isinstance(spec, TextSpec):
        check_padding(name, answer, inputs, spec, padding_tolerance)
    if np.abs(answer(alone) - answer(every)[:1]).max() > rounding:
        raise ConversionFailed(
            f"{name}: answers an input differently in a batch; its forward must not mix the rows of a batch, "
            "as batch norm without running statistics does"
        )


def _check_golden_inputs(version_dir: Path, manifest: Manifest, golden: Golden) -> None:
    """Preprocess the raw inputs again. The result must equal the stored tensors exactly."""
    if manifest.preprocessing is None:
        return
    preprocessing = Preprocessing.from_dir(manifest.preprocessing, version_dir)
    again = preprocessing.inputs_of_raw(list(golden.raw)).batch(np.arange(golden.count))
    if not np.array_equal(again, golden.inputs[0]):
        raise VerificationFailed(
            f"{version_dir / GOLDEN_FILE}: preprocessing gives other tensors than those stored in it"
        )


def _check_golden_answers(backend: Backend, golden: Golden, parity: Parity) -> float:
    worst = 0.0
    for size in parity.batch_sizes:
        for indices in _batches(golden.count, size):
            answers = backend.run([array[indices] for array in golden.inputs])
            for expected, came in zip(golden.outputs, answers, strict=True):
                where = f"golden answers at batch size {size}"
                worst = max(worst, _difference(expected[indices], came, parity.tolerance, where))
    return worst


def _batches(count: int, size: int) -> Sequence[np.ndarray]:
    """Return full batches of positions that cover ``count`` examples; the last wraps around to the first example."""
    return [np.arange(start, start + size) % count for start in range(0, count, size)]


def _difference(expected: np.ndarray, came: np.ndarray, tolerance: float, where: str) -> float:
    """Return the largest absolute difference of answers (N, K), or refuse one beyond the tolerance."""
    if broken := _count_nan(came):
        raise VerificationFailed(f"the graph answers NaN for {broken} of {len(came)} inputs ({where})")
    difference = largest_difference(expected, came)
    if difference > tolerance:
        raise VerificationFailed(
            f"a probability of the graph is off by {difference:.3g} ({where}), expected at most {tolerance:g}"
        )
    return difference


def _count_nan(answers: np.ndarray) -> int:
    return int(np.isnan(answers).any(axis=1).sum())
