"""Small manifests, graphs, tokenizers, version folders and servables for the unit tests."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from service.backend.base import Provider
from service.batching.policy import BatchingPolicy
from service.batching.priority import Priorities
from service.batching.refusal import Refusal
from service.batching.request import PendingRequest
from service.errors import ServingError
from service.golden import Golden, write_golden
from service.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Accuracy,
    Dataset,
    Manifest,
    Parity,
    Provenance,
    file_digest,
    write_manifest,
)
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.preprocessing.prepare import Preparer
from service.repository.proof import Proof
from service.repository.servable import Servable
from service.repository.store import VersionFolder
from service.spec import ImageSpec, TextSpec
from service.tensors import TensorSpec
from tests.fakes import linear_cost

WORDS = ("[PAD]", "[UNK]", "good", "bad", "film")
LABELS = ("zero", "one", "two")

IMAGE = ImageSpec(
    kind="image",
    mode="L",
    height=2,
    width=3,
    resize="exact",
    resize_px=2,
    interpolation="bilinear",
    mean=(0.5,),
    std=(0.5,),
)
TEXT = TextSpec(kind="text", tokenizer_file="tokenizer.json", padding_id=0, unknown_id=1, max_tokens=6)


def image_spec(**changes: Any) -> ImageSpec:
    return dataclasses.replace(IMAGE, **changes)


def text_spec(**changes: Any) -> TextSpec:
    return dataclasses.replace(TEXT, **changes)


def manifest(**changes: Any) -> Manifest:
    """A valid manifest of a picture model with three classes."""
    plain = Manifest(
        schema_version=1,
        task="image-classification",
        inputs=(TensorSpec("images", "UINT8", (-1, 2, 3, 1)),),
        outputs=(TensorSpec("probabilities", "FP32", (-1, 3)),),
        preprocessing=IMAGE,
        labels_file="labels.txt",
        max_batch_size=4,
        provenance=Provenance(
            "sums", "none", 7, Dataset("toy", "sha256:00"), {"numpy": "2"}, "abc", "2026-01-02T03:04:05Z"
        ),
        accuracy=(Accuracy("top1", 0.75, 0.5, "toy", "test", 8, 0.4, 0.9),),
        parity=Parity(1e-5, 1e-7, (1, 2, 4), 1.0, 8),
        model_digest="sha256:00",
    )
    return dataclasses.replace(plain, **changes)


def text_manifest(**changes: Any) -> Manifest:
    """A valid manifest of a sentence model with three classes."""
    return manifest(
        **{
            "task": "sentence-classification",
            "inputs": (TensorSpec("ids", "INT64", (-1, -1)),),
            "preprocessing": TEXT,
            **changes,
        }
    )


def tokenizer() -> Tokenizer:
    """Lower-case words between spaces; :data:`WORDS` are known."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.Replace(",", " "), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode a picture."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(values: Sequence[Sequence[int]]) -> bytes:
    """A grey PNG of these pixels."""
    return encoded(Image.fromarray(np.array(values, dtype=np.uint8)))


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A checked ONNX model."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def doubling(shape: Sequence[int | str] = ("N", 2)) -> onnx.ModelProto:
    """``y`` = 2 ``x``, FP32."""
    tensors = [(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    return graph_model([helper.make_node("Add", ["x", "x"], ["y"])], tensors[:1], tensors[1:])


def picture_classifier() -> onnx.ModelProto:
    """uint8 (N, 2, 3, 1) to the softmax of the sums of the three columns / 100."""
    return graph_model(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["floats", "axes"], ["sums"], keepdims=0),
            helper.make_node("Div", ["sums", "hundred"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        [("images", TensorProto.UINT8, ("N", 2, 3, 1))],
        [("probabilities", TensorProto.FLOAT, ("N", 3))],
        {"axes": np.array([1, 3], np.int64), "hundred": np.array(100, np.float32)},
    )


def picture_probabilities(images: np.ndarray) -> np.ndarray:
    """What :func:`picture_classifier` answers."""
    logits = images.astype(np.float64).sum(axis=(1, 3)) / 100
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def sentence_classifier() -> onnx.ModelProto:
    """int64 (N, L) to the mean of one row of a table a token, so that padding (a zero row) keeps the order."""
    table = np.zeros((len(WORDS), 3), np.float32)
    table[2:] = np.eye(3)
    return graph_model(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["sums"], keepdims=0),
            helper.make_node("Softmax", ["sums"], ["probabilities"], axis=-1),
        ],
        [("ids", TensorProto.INT64, ("N", "L"))],
        [("probabilities", TensorProto.FLOAT, ("N", 3))],
        {"table": table, "axis": np.array([1], np.int64)},
    )


GOLDEN_IMAGES = np.arange(18, dtype=np.uint8).reshape(3, 2, 3, 1) * 13


def picture_golden() -> Golden:
    """Three pictures and what :func:`picture_classifier` must answer."""
    raw = tuple(picture(image[..., 0].tolist()) for image in GOLDEN_IMAGES)
    return Golden(raw, (GOLDEN_IMAGES,), (picture_probabilities(GOLDEN_IMAGES),))


def write_model(root: Path, model: onnx.ModelProto, name: str = "m", version: int = 1) -> VersionFolder:
    """Write a bare model into a repository."""
    path = root / name / str(version)
    path.mkdir(parents=True)
    onnx.save(model, path / MODEL_FILE)
    return VersionFolder(name, version, path)


def write_picture_version(
    root: Path, name: str = "pictures", version: int = 1, *, golden: Golden | None = None, **changes: Any
) -> VersionFolder:
    """Publish :func:`picture_classifier` with everything that belongs to it."""
    folder = write_model(root, picture_classifier(), name, version)
    digest = file_digest(folder.path / MODEL_FILE)
    write_manifest(manifest(**{"model_digest": digest, **changes}), folder.path)
    write_golden(golden or picture_golden(), folder.path / GOLDEN_FILE)
    (folder.path / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return folder


def write_sentence_version(root: Path, name: str = "sentences", version: int = 1, **changes: Any) -> VersionFolder:
    """Publish :func:`sentence_classifier` with everything that belongs to it."""
    folder = write_model(root, sentence_classifier(), name, version)
    spec = changes.get("preprocessing", TEXT)
    padding = spec.padding_id
    ids = np.array([[2, 4, padding], [3, 4, 1]], np.int64)
    sums = np.array([[1, 0, 1], [0, 1, 1]], np.float64)
    answers = (np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True)).astype(np.float32)
    digest = file_digest(folder.path / MODEL_FILE)
    write_manifest(text_manifest(**{"model_digest": digest, **changes}), folder.path)
    write_golden(Golden((b"Good film", b"bad, film what"), (ids,), (answers,)), folder.path / GOLDEN_FILE)
    (folder.path / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    tokenizer().save(str(folder.path / "tokenizer.json"))
    return folder


class FakeBatcher:
    """Takes requests and keeps them; counts reservations; refuses when told to.

    Attributes:
        places: Reservations that are still granted.
        refusal: What ``submit`` raises.
        on_submit: Called with each request that was taken.
    """

    def __init__(self, places: int = 1000, refusal: Exception | None = None) -> None:
        self.places = places
        self.refusal = refusal
        self.on_submit: Callable[[PendingRequest], None] = lambda request: None
        self.reserved = 0
        self.requests: list[PendingRequest] = []
        self.cancelled: list[PendingRequest] = []
        self.closed_with: list[float | None] = []
        self.wedged = False
        self.max_queued_requests = 64
        self.abandoned = False
        self.queued = 0
        self.running = 0
        self.instances = 2
        self.policy = BatchingPolicy(linear_cost(), 4, 0.25)
        self.door_refusal: ServingError | None = None
        self.last_refusal: Refusal | None = None
        self.still_refuses = True
        self.asked: list[float] = []
        self.repeated_counts: list[tuple[int, int, float]] = []

    def repeats(self, refusal: Refusal, deadline: float, now: float) -> bool:
        assert refusal is self.last_refusal
        assert now < deadline
        self.asked.append(deadline)
        return self.still_refuses

    def repeated(self, count: int, rows: int, handicap: float) -> None:
        self.repeated_counts.append((count, rows, handicap))

    def is_wedged(self, limit_seconds: float) -> bool:
        return self.wedged and limit_seconds > 0

    def abandon(self) -> None:
        self.abandoned = True

    def reserve(self) -> None:
        if self.door_refusal is not None and self.reserved >= self.places:
            raise self.door_refusal
        self.reserved += 1

    def release(self) -> None:
        self.reserved -= 1

    def submit(self, request: PendingRequest, inline: bool = False) -> None:
        self.reserved -= 1
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        self.on_submit(request)

    def offer(self, request: PendingRequest, inline: bool = False, anew: bool = False) -> None:
        self.reserve()
        self.submit(request, inline)

    def cancel(self, request: PendingRequest) -> None:
        self.cancelled.append(request)
        request.cancelled = True

    def close(self, grace_seconds: float | None = None) -> None:
        self.closed_with.append(grace_seconds)


def make_servable(
    source: Manifest | None = None,
    *,
    batcher: FakeBatcher | None = None,
    version_dir: Path = Path("nowhere"),
    metrics: Metrics | None = None,
    **changes: Any,
) -> Servable:
    """A servable that was never loaded: of :func:`manifest` unless another is given."""
    source = source or manifest()
    metrics = metrics or Metrics("0", "fake")
    fields: dict[str, Any] = {
        "name": "pictures",
        "version": 1,
        "task": source.task,
        "manifest": source,
        "inputs": source.inputs,
        "outputs": source.outputs,
        "batched": True,
        "max_batch_size": 4,
        "labels": LABELS,
        "preparer": Preparer(source.preprocessing, version_dir) if source.preprocessing else None,
        "provider": Provider("auto", "CPUExecutionProvider", "cpu"),
        "digest": "sha256:00",
        "golden": Proof(2.5e-7, 3),
        "advertises_items": False,
        "optional_inputs": (),
        "objective_seconds": float("inf"),
        "priorities": Priorities(3),
        "load_seconds": 0.5,
        "batcher": batcher or FakeBatcher(),
        **changes,
    }
    fields.setdefault("max_rows", fields["max_batch_size"])
    fields.setdefault("interrupt", lambda: None)
    fields.setdefault("metrics", ModelMetrics(metrics, fields["name"], str(fields["version"]), lambda: 1234))
    return Servable(**fields)


def bare_servable(**changes: Any) -> Servable:
    """A third party's graph: no manifest, task tensor, ``x`` FP32 (N, 2) to ``y`` FP32 (N, 2)."""
    return make_servable(
        **{
            "name": "bare",
            "task": "tensor",
            "manifest": None,
            "inputs": (TensorSpec("x", "FP32", (-1, 2)),),
            "outputs": (TensorSpec("y", "FP32", (-1, 2)),),
            "labels": (),
            "preparer": None,
            "golden": None,
            **changes,
        }
    )
