"""Measures a quantised file against its source and publishes it as a separate model."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.data import DataSet, Source
from export.data.base import fold_of
from export.data.inputs import Inputs, Preprocessing
from export.errors import QuantizationRefused
from export.evaluate import Score, evaluate_graph
from export.publish import Say, write_aside
from export.quantize import METHODS, choose_excluded, quantize_int8, shrink_tables, to_float16
from export.reading import recipe_of
from export.runner import open_divided
from export.verify import batch_sizes, largest_difference, verify_version
from service.backend.onnx import OnnxBackend
from service.digests import check_digests, sealed
from service.golden import Golden, read_golden, write_golden
from service.manifest import (
    COST_FILE,
    GOLDEN_FILE,
    MODEL_FILE,
    Manifest,
    Parity,
    Quantization,
    file_digest,
    read_manifest,
    write_manifest,
)
from service.processors import processor_name

# Integers round the same everywhere, but processors without VNNI sum in another order and may saturate.
TOLERANCE = 0.02
_CALIBRATION, _SELECTION = 512, 1000  # training examples
_BATCH = 32
_SPEED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What to quantise and what it may cost.

    Attributes:
        method: One of :data:`export.quantize.METHODS`.
        limit_points: Largest accepted loss of top-1, in percentage points.
        force: Publish even if the loss exceeds the limit.
        recipe: How to read the data, or None for the version's own recipe.
    """

    method: str
    limit_points: float
    force: bool
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class _Subject:
    """The source version with its data."""

    folder: Path
    manifest: Manifest
    data: DataSet
    preprocessing: Preprocessing
    training: Inputs

    @property
    def path(self) -> Path:
        return self.folder / MODEL_FILE

    @property
    def calibration_count(self) -> int:
        """How many training inputs calibrate the ranges. At least as many remain for choosing nodes."""
        return min(_CALIBRATION, len(self.training) // 2)

    def batches(self, start: int, count: int) -> list[np.ndarray]:
        """Return ``count`` training inputs from ``start`` on in a fixed random order, in batches."""
        order = np.random.default_rng(0).permutation(len(self.training))[start : start + count]
        return [self.training.batch(order[i : i + _BATCH]) for i in range(0, len(order), _BATCH)]


def quantize_version(version_dir: Path, data: Path, target: Path | None, wish: Wish, say: Say) -> Path:
    """Quantise, measure and publish. The source version does not change.

    Args:
        version_dir: The source.
        data: Its data set, laid out as for training.
        target: Folder of the new model, or None for ``<model>-<method>`` beside the source's.
        wish: The method and what it may cost.
        say: Receives one line per step.

    Returns:
        The new version's folder.

    Raises:
        QuantizationRefused: It loses more accuracy than allowed, the method does not fit the graph, or the
            data are not the source's.
        LoadError: The source cannot be read, or a file's digest differs from its manifest.
    """
    subject = _open(version_dir, data, wish)
    target = target or version_dir.parent.with_name(f"{version_dir.resolve().parent.name}-{wish.method}")
    with write_aside(target, None) as (aside, folder):
        excluded = _make(subject, aside / MODEL_FILE, wish, say)
        before, after, agreement = _measure(subject, aside / MODEL_FILE)
        speedup = measure_speed(subject.path, aside / MODEL_FILE, subject.batches(0, _BATCH)[0])
        sizes = [path.stat().st_size for path in (subject.path, aside / MODEL_FILE)]
        say(f"source: {before}, {sizes[0] / 1e6:.2f} MB")
        say(f"{wish.method}: {after}, {sizes[1] / 1e6:.2f} MB; same top-1 on {agreement:.2%}")
        say(f"speed on one thread: {', '.join(f'{x:.2f} times at batch size {b}' for b, x in speedup.items())}")
        judge(before.value - after.value, wish)
        digest = file_digest(subject.path)
        quantization = Quantization(
            method=wish.method,
            source_digest=digest,
            calibration_count=subject.calibration_count if wish.method == "int8-static" else 0,
            excluded_nodes=excluded,
            accuracy_before=before.value,
            accuracy_loss=before.value - after.value,
            top1_agreement=agreement,
            speedup=speedup,
            bytes_before=sizes[0],
            machine=processor_name(),
        )
        _write(subject, aside, after, quantization)
        verify_version(aside)
    say(f"published: {folder}")
    return folder


def judge(loss: float, wish: Wish) -> None:
    """Refuse a loss of top-1 accuracy (in [0, 1]) beyond the limit, unless ``wish.force``.

    Raises:
        QuantizationRefused: The message states the loss and the limit.
    """
    if loss * 100 > wish.limit_points + 1e-9 and not wish.force:
        raise QuantizationRefused(
            f"{wish.method} costs {loss * 100:.2f} points of top-1, the limit is {wish.limit_points:g}; "
            "--limit raises it, --force publishes regardless"
        )


def measure_speed(source: Path, made: Path, inputs: np.ndarray) -> dict[str, float]:
    """Return the speedup by batch size, 1 and all of ``inputs``: the source's time over the other's.

    Each time is the shortest run on one thread. The two files take turns, so other load affects both.
    """
    backends = [OnnxBackend(path, "cpu", 1) for path in (source, made)]
    speedup = {}
    for size in sorted({1, len(inputs)}):
        best = [float("inf"), float("inf")]
        ends = time.monotonic() + _SPEED_SECONDS
        while time.monotonic() < ends:
            for number, backend in enumerate(backends):
                began = time.perf_counter()
                backend.run([inputs[:size]])
                best[number] = min(best[number], time.perf_counter() - began)
        speedup[str(size)] = round(best[0] / best[1], 3)
    return speedup


def _open(version_dir: Path, data_path: Path, wish: Wish) -> _Subject:
    manifest = read_manifest(version_dir)
    if manifest.preprocessing is None or manifest.labels_file is None or not manifest.accuracy:
        raise QuantizationRefused(
            f"{version_dir}: has no accuracy in its manifest, as one that was loaded, so there is nothing to compare "
            "with; give a version that publish made"
        )
    check_digests(manifest, version_dir)  # otherwise damaged files would be copied and given valid digests
    recipe = recipe_of(version_dir, manifest, wish.recipe)
    fold = fold_of(manifest.accuracy[0].split, recipe.data.folds)
    data, _ = open_divided(recipe, Source(data_path), manifest.provenance.seed or 0, fold)
    _check_same_data(version_dir, manifest, data)
    preprocessing = Preprocessing.from_dir(manifest.preprocessing, version_dir)
    return _Subject(version_dir, manifest, data, preprocessing, preprocessing.inputs(data.train))


def _check_same_data(version_dir: Path, manifest: Manifest, data: DataSet) -> None:
    """Refuse data that differ from the source's: its manifest would attribute the results to the wrong data set."""
    assert data.test is not None
    source = manifest.accuracy[0]
    for what, before, now in (
        ("training data", manifest.provenance.dataset.digest, data.train.digest),
        ("test split", source.split, data.test_name),
        ("size of the test split", source.count, len(data.test)),
    ):
        if before != now:
            raise QuantizationRefused(
                f"{version_dir}: the {what} of the version is {before}, these data have {now}; "
                "give its own data with --data, and with --recipe how to read them"
            )


def _make(subject: _Subject, target: Path, wish: Wish, say: Say) -> tuple[str, ...]:
    """Write the quantised file and return the nodes left in float32."""
    if wish.method == "int8-static":
        batches = subject.batches(0, subject.calibration_count)
        unseen = subject.batches(subject.calibration_count, _SELECTION)
        source = OnnxBackend(subject.path, "cpu")
        answers = [source.run([batch])[0] for batch in unseen]

        def damage(path: Path) -> float:
            backend = OnnxBackend(path, "cpu")
            pairs = zip(unseen, answers, strict=True)
            return 1 - float(np.mean(np.concatenate([_same(backend.run([b])[0], a) for b, a in pairs])))

        # About half of the examples whose top-1 changes were wrong before, so a limit on changes is stricter.
        excluded = choose_excluded(subject.path, batches, damage, max(0.01, wish.limit_points / 100), say)
        quantize_int8(subject.path, target, batches, excluded)
        return excluded
    if wish.method == "float16":
        to_float16(subject.path, target)
    else:
        assert wish.method in METHODS
        shrink_tables(subject.path, target, wish.method.removeprefix("table-"))
    return ()


def _measure(subject: _Subject, made: Path) -> tuple[Score, Score, float]:
    """Return both accuracies on the test split, preprocessed as the server does, and the share of equal top-1."""
    test = subject.data.test
    assert test is not None
    backends = [OnnxBackend(path, "cpu") for path in (subject.path, made)]
    before, after = (evaluate_graph(backend, subject.preprocessing, test) for backend in backends)
    inputs = subject.preprocessing.inputs(test)
    same = []
    for start in range(0, len(inputs), _BATCH):
        batch = inputs.batch(np.arange(start, min(start + _BATCH, len(inputs))))
        one, other = (backend.run([batch])[0] for backend in backends)
        same.append(_same(one, other))
    return before, after, float(np.mean(np.concatenate(same)))


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    same: np.ndarray = one.argmax(axis=1) == other.argmax(axis=1)
    return same


def _write(subject: _Subject, aside: Path, score: Score, quantization: Quantization) -> None:
    """Write everything beside the graph. Its golden answers are the quantised graph's own, one input at a time."""
    source = subject.manifest
    for path in subject.folder.iterdir():
        if path.name not in (MODEL_FILE, GOLDEN_FILE, COST_FILE, "manifest.json") and path.is_file():
            shutil.copyfile(path, aside / path.name)
    golden, backend = read_golden(subject.folder / GOLDEN_FILE), OnnxBackend(aside / MODEL_FILE, "cpu")
    (inputs,) = golden.inputs
    own = np.concatenate([backend.run([inputs[i : i + 1]])[0] for i in range(len(inputs))])
    write_golden(Golden(golden.raw, golden.inputs, (own,)), aside / GOLDEN_FILE)
    sizes = batch_sizes(source.max_batch_size)
    worst = 0.0
    for size in sizes:
        rows = np.arange(size) % len(inputs)
        worst = max(worst, largest_difference(own[rows], backend.run([inputs[rows]])[0]))
    parity = Parity(TOLERANCE, worst, sizes, quantization.top1_agreement, score.count)
    accuracy = dataclasses.replace(source.accuracy[0], **dataclasses.asdict(score))
    made = dataclasses.replace(
        source,
        accuracy=(accuracy,),
        parity=parity,
        quantization=quantization,
    )
    write_manifest(sealed(made, aside), aside)
