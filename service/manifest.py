"""manifest.json of a model version: typed, versioned, read and written strictly.

An unknown key, a missing key or a value of another type is an error that names it with its
place, e.g. ``accuracy[0].value``. Only two keys may be missing, since older versions lack them:
``quantization`` and, in schema version 1, ``digests``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from service import strict
from service.errors import ManifestInvalid
from service.spec import ImageSpec, PreprocessingSpec
from service.tensors import DTYPES, TensorSpec

SCHEMA_VERSION = 2  # 1: of all files model.onnx alone had a digest
_READABLE = (1, SCHEMA_VERSION)
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
COST_FILE = "cost.json"  # what batches cost on the machines that served it; no part of the version
GOLDEN_FILE = "golden.npz"

Task = Literal["image-classification", "sentence-classification", "tensor"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the model was trained on. ``digest`` is ``sha256:`` of the training examples."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the weights come from.

    ``seed`` is null for weights that were loaded, not trained; ``created`` is an instant with its
    zone, e.g. ``2026-01-02T03:04:05Z``.
    """

    architecture: str
    recipe: str
    seed: int | None
    dataset: Dataset
    libraries: dict[str, str]
    git_commit: str
    created: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How good the model is on one split.

    Attributes:
        metric: E.g. ``"top1"``.
        value: Of this file, through the service's preprocessing under ONNX Runtime, in [0, 1].
        torch_value: Of the torch model on the same examples, in [0, 1].
        dataset: Name of the data set.
        split: E.g. ``"test"``.
        count: Number of examples.
        interval_low: Lower end of the 95 % Wilson interval of ``value``.
        interval_high: Upper end of it.
    """

    metric: str
    value: float
    torch_value: float
    dataset: str
    split: str
    count: int
    interval_low: float
    interval_high: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How closely this file gives torch's answers, measured at export.

    For a quantised version, ``max_abs_difference`` is the difference from its own answers to single inputs, and
    ``top1_agreement`` the agreement with the version it was made from.

    Attributes:
        tolerance: Largest absolute difference of a probability that is accepted, here and at load.
        max_abs_difference: The largest that was measured.
        batch_sizes: Batch sizes at which it was measured.
        top1_agreement: Share of examples with the same top-1, in [0, 1].
        count: Number of examples behind ``top1_agreement``.
    """

    tolerance: float
    max_abs_difference: float
    batch_sizes: tuple[int, ...]
    top1_agreement: float
    count: int


@dataclass(frozen=True, slots=True)
class Quantization:
    """What making a version smaller or faster cost, measured against the version it was made from.

    Attributes:
        method: ``"int8-static"``, ``"float16"``, ``"table-float16"`` or ``"table-int8"``.
        source_digest: Digest of the model.onnx that it was made from.
        calibration_count: Training examples that gave the ranges; 0 where none are needed.
        excluded_nodes: Nodes left in float32, because measuring showed that they cost most.
        accuracy_before: Top-1 of the source on the examples of ``accuracy``, in [0, 1].
        accuracy_loss: That minus this version's, in [0, 1]; negative where this one is better.
        top1_agreement: Share of those examples with the same top-1 as the source, in [0, 1].
        speedup: Source's time over this version's, by batch size, on one thread of ``machine``.
        bytes_before: Size of the source's model.onnx.
        machine: Processor on which the speed was measured.
    """

    method: str
    source_digest: str
    calibration_count: int
    excluded_nodes: tuple[str, ...]
    accuracy_before: float
    accuracy_loss: float
    top1_agreement: float
    speedup: dict[str, float]
    bytes_before: int
    machine: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a version says of itself.

    Attributes:
        schema_version: :data:`SCHEMA_VERSION`, or 1.
        task: What goes in and what comes out.
        inputs: The graph's inputs, in order.
        outputs: The graph's outputs, in order.
        preprocessing: How a picture or a sentence becomes the input; null for ``"tensor"``.
        labels_file: File with one label a line, in class order, beside the manifest; null for none.
        max_batch_size: Largest batch at which the graph was verified.
        provenance: Where the weights come from.
        accuracy: Measured accuracies; may be empty.
        parity: Agreement with torch.
        model_digest: ``sha256:`` and the hexadecimal digest of model.onnx.
        quantization: What making it smaller or faster cost; null for a version as it was converted.
        digests: The digest of every other file that the version needs, by name: labels, tokenizer, golden vectors,
            weights beside model.onnx; null in schema version 1.
    """

    schema_version: int
    task: Task
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: PreprocessingSpec | None
    labels_file: str | None
    max_batch_size: int
    provenance: Provenance
    accuracy: tuple[Accuracy, ...]
    parity: Parity
    model_digest: str
    quantization: Quantization | None = None
    digests: dict[str, str] | None = None


def read_manifest(version_dir: Path) -> Manifest:
    """Read and check ``manifest.json`` of a version folder.

    Raises:
        ManifestInvalid: The file is missing or damaged, a key is unknown, missing or of another
            type, or values contradict each other; the message names the key.
    """
    path = version_dir / MANIFEST_FILE
    try:
        if not path.is_file():  # a pipe would be read without end
            raise ManifestInvalid(f"{path}: no such file")
        data = json.loads(path.read_bytes())
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair, as \ud800, can be told to nobody
    except (OSError, ValueError, RecursionError) as error:  # ValueError also for numbers of too many digits
        raise ManifestInvalid(f"{path}: not readable as JSON ({error})") from error
    try:
        return parse_manifest(data)
    except ManifestInvalid as error:
        raise ManifestInvalid(f"{path}: {error}") from None


def parse_manifest(data: Any) -> Manifest:
    """Build a manifest from parsed JSON; see :func:`read_manifest` for the errors."""
    if isinstance(data, dict) and data.get("schema_version", SCHEMA_VERSION) not in _READABLE:
        expected = " or ".join(map(str, _READABLE))
        raise ManifestInvalid(f"schema_version: expected {expected}, got {data['schema_version']!r}")
    try:
        manifest = strict.parse(Manifest, data)
    except strict.StrictError as error:
        raise ManifestInvalid(str(error)) from None
    _check(manifest)
    return manifest


def write_manifest(manifest: Manifest, version_dir: Path) -> None:
    """Write ``manifest.json`` so that :func:`read_manifest` gives an equal manifest back."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False)
    (version_dir / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def file_digest(path: Path) -> str:
    """Return ``sha256:`` and the hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels in class order, one a line.

    Raises:
        ManifestInvalid: The file is missing or not UTF-8.
    """
    if not path.is_file():  # a pipe would be read without end
        raise ManifestInvalid(f"{path}: labels are not readable (no such file)")
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise ManifestInvalid(f"{path}: labels are not readable ({error})") from error


def _check(manifest: Manifest) -> None:
    """Refuse a manifest whose parts contradict each other."""
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.datatype not in DTYPES:
            raise ManifestInvalid(f"tensor '{spec.name}': unknown datatype {spec.datatype!r}")
    if not _is_instant(manifest.provenance.created):
        raise ManifestInvalid(
            f"provenance.created: expected an instant such as 2026-01-02T03:04:05Z, got {manifest.provenance.created!r}"
        )
    if manifest.max_batch_size < 1:
        raise ManifestInvalid(f"max_batch_size: must be at least 1, got {manifest.max_batch_size}")
    if (manifest.task == "tensor") != (manifest.preprocessing is None):
        raise ManifestInvalid(f"preprocessing: does not fit task {manifest.task!r}")
    if manifest.preprocessing is not None:
        is_image = isinstance(manifest.preprocessing, ImageSpec)
        if is_image != (manifest.task == "image-classification"):
            raise ManifestInvalid(f"preprocessing.kind: does not fit task {manifest.task!r}")
        if manifest.labels_file is None:
            raise ManifestInvalid("labels_file: a classifier needs labels")
        if len(manifest.inputs) != 1 or not manifest.outputs or len(manifest.outputs[0].shape) != 2:
            raise ManifestInvalid("inputs, outputs: a classifier has one input and outputs (N, K)")
        _check_input(manifest.inputs[0], manifest.preprocessing)
    for name in (*companions(manifest), *(manifest.digests or ())):
        if Path(name).name != name:
            raise ManifestInvalid(f"{name!r}: must be the name of a file beside the manifest")
    _check_digests(manifest)


def _check_digests(manifest: Manifest) -> None:
    if manifest.schema_version == 1:
        if manifest.digests is not None:
            raise ManifestInvalid("digests: unknown key in schema version 1")
        return
    if manifest.digests is None:
        raise ManifestInvalid("missing key 'digests'")
    for name in companions(manifest):
        if name not in manifest.digests:
            raise ManifestInvalid(f"missing key 'digests.{name}'")


def companions(manifest: Manifest) -> list[str]:
    """Return the names of the files beside model.onnx that a version always needs."""
    tokenizer_file = getattr(manifest.preprocessing, "tokenizer_file", None)
    return [name for name in (manifest.labels_file, tokenizer_file, GOLDEN_FILE) if name is not None]


def _is_instant(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _check_input(spec: TensorSpec, preprocessing: PreprocessingSpec) -> None:
    """Refuse an input that is not what the preprocessing makes: every request would fail in the runtime."""
    if isinstance(preprocessing, ImageSpec):
        made = TensorSpec(spec.name, "UINT8", (-1, *preprocessing.shape))
    else:
        made = TensorSpec(spec.name, "INT64", (-1, -1))
    if spec != made:
        raise ManifestInvalid(f"inputs[0]: the preprocessing makes {made}, the manifest says {spec}")
