"""Publishes a run as a model version: convert, verify, evaluate, write golden vectors and manifest, rename.

A version appears complete or not at all: it is written to a temporary folder beside its target, synced
and renamed. A published version is never changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.classifier import Probabilities
from export.convert import convert, input_spec, output_spec
from export.data import DataSet, Source
from export.data.golden import doubted_pictures, golden_raw
from export.data.inputs import Preprocessing
from export.errors import PublishFailed, RunInvalid
from export.evaluate import Score, evaluate_graph
from export.recipe import MODEL_NAME, Recipe
from export.run import RunRecord
from export.runner import load_classifier, open_divided
from export.train import Part, evaluate
from export.verify import Reference, verify_graph, verify_version
from service.backend.onnx import OnnxBackend
from service.digests import sealed
from service.golden import Golden, write_golden
from service.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    Accuracy,
    Manifest,
    Parity,
    Provenance,
    write_manifest,
)
from service.spec import ImageSpec

LABELS_FILE = "labels.txt"
_LARGEST_VERSION = 10**18 - 1  # a server ignores larger numbers
_ASIDE = ".aside-"
_RETESTED = 0.005  # largest change of top-1 when a run is tested again, perhaps on another device
_ABANDONED_SECONDS = 86400.0  # without a new file in it, which no publishing takes

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Described:
    """What a version says of itself before anything is measured."""

    preprocessing: Preprocessing
    labels: tuple[str, ...]
    max_batch_size: int
    provenance: Provenance


def publish_run(run_dir: Path, models: Path, version: int | None, data_path: Path | None, say: Say) -> Path:
    """Publish a run's best weights.

    Args:
        run_dir: As ``train --out`` wrote it.
        models: The model repository; created if it does not exist.
        version: Positive integer, or None for the next free one.
        data_path: Where the data are now, or None if they have not moved.
        say: Receives one line per step.

    Returns:
        The version folder.

    Raises:
        RunInvalid: The folder holds no run, the data differ from those of the run, or its accuracy does.
        ConversionFailed: The graph is not what the server expects.
        VerificationFailed: The graph does not reproduce torch's answers.
        PublishFailed: The version exists already, or the repository cannot be written.
    """
    recipe, record, preprocessing, classifier = load_classifier(run_dir)
    data, _ = open_divided(recipe, Source(data_path or Path(record.data_path)), record.seed, record.fold)
    _check_same_data(run_dir, record, data)
    test = data.test
    assert test is not None
    classes, inputs = data.classes, preprocessing.inputs(test)
    with write_aside(models / recipe.name, version) as (aside, target):
        _, torch_accuracy = evaluate(classifier, Part(inputs, test.labels), "cpu")
        _check_same_accuracy(run_dir, record, torch_accuracy)
        classifier.network.compact()
        model = Probabilities(classifier).eval()
        convert(model, recipe.spec, classes, aside / MODEL_FILE)
        say(f"converted: {(aside / MODEL_FILE).stat().st_size / 1e6:.2f} MB")
        backend = OnnxBackend(aside / MODEL_FILE, "cpu")
        parity = verify_graph(model, backend, inputs, recipe.serving.max_batch_size)
        say(
            f"verified: at most {parity.max_abs_difference:.2g} from torch at batch sizes "
            f"{', '.join(map(str, parity.batch_sizes))}; same top-1 on all {parity.count}"
        )
        score = evaluate_graph(backend, preprocessing, test)
        say(f"evaluated: {score}; torch {torch_accuracy:.2%}")
        about = _provenance(recipe, record)
        described = Described(preprocessing, recipe.data.labels, recipe.serving.max_batch_size, about)
        complete(aside, described, model, golden_raw(recipe.spec), parity, (_accuracy(data, score, torch_accuracy),))
    say(f"published: {target}")
    return target


@contextlib.contextmanager
def write_aside(model_dir: Path, version: int | None) -> Iterator[tuple[Path, Path]]:
    """Provide a temporary folder to fill. On exit, sync it and rename it to the version; after an error, remove it.

    What killed publishings left aside of the same model is removed first, once it is a day old.

    Yields:
        The temporary folder, whose name is no version number so that no server reads it, and the target.

    Raises:
        PublishFailed: The version exists already, no server would read its name or number, or the repository
            cannot be written.
    """
    if not MODEL_NAME.fullmatch(model_dir.absolute().name):
        raise PublishFailed(
            f"{model_dir}: no server reads a model of this name; expected at most 128 letters, digits and _.-, "
            "beginning with a letter, digit or _"
        )
    try:
        version = version or _next_version(model_dir)
        target = model_dir / str(version)
        if version > _LARGEST_VERSION:
            raise PublishFailed(f"{target}: no server reads this version number; expected at most {_LARGEST_VERSION}")
        if target.exists():
            raise PublishFailed(f"{target}: exists already; leave --version out to take the next free number")
        made = [folder for folder in (model_dir, *model_dir.parents) if not folder.exists()]
        model_dir.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(model_dir, time.time())
        aside = Path(tempfile.mkdtemp(prefix=f"{_ASIDE}{target.name}-", dir=model_dir))
    except OSError as error:
        raise PublishFailed(f"{error.filename or model_dir}: cannot be written ({error.strerror})") from None
    try:
        yield aside, target
        aside.chmod(0o755)  # mkdtemp denies access to other users; the server may run as one
        for path in (*aside.iterdir(), aside):
            _sync(path)
        aside.rename(target)
        _sync(model_dir)
    except OSError as error:
        reason = error.strerror or error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            reason = "it has appeared meanwhile; run again without --version to take the next free number"
        raise PublishFailed(f"{target}: cannot be published ({reason})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):  # usually they are not empty
            for empty in made:
                empty.rmdir()


def _remove_abandoned(model_dir: Path, now: float) -> None:
    for left in model_dir.glob(f"{_ASIDE}*"):
        with contextlib.suppress(OSError):  # another's, or somebody else removes it: nobody reads it
            if now - left.lstat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left)


def _check_same_data(run_dir: Path, record: RunRecord, data: DataSet) -> None:
    """Refuse data that differ from the run's. For runs without a digest of the test split, compare its size alone."""
    assert data.test is not None
    for what, before, now in (
        ("training data", record.dataset.digest, data.train.digest),
        ("size of the test split", record.test_count, len(data.test)),
        ("test split", record.test_digest or data.test.digest, data.test.digest),
    ):
        if before != now:
            raise RunInvalid(
                f"{run_dir}: the {what} of the run is {before}, these data have {now}; give --data DIR of the run"
            )


def _check_same_accuracy(run_dir: Path, record: RunRecord, accuracy: float) -> None:
    """Refuse weights or a tokenizer that do not reach the accuracy that the run was tested with."""
    if record.test_accuracy is not None and abs(record.test_accuracy - accuracy) > _RETESTED:
        raise RunInvalid(
            f"{run_dir}: has a top-1 of {accuracy:.2%}, but run.json says {record.test_accuracy:.2%}; "
            "its weights or its tokenizer have been changed, so train again"
        )


def complete(
    aside: Path,
    described: Described,
    model: Reference,
    raw: Sequence[bytes],
    parity: Parity,
    accuracy: tuple[Accuracy, ...] = (),
) -> None:
    """Write what a version has beside its graph, with the model's answers to ``raw`` as golden ones; verify it all.

    Raises:
        VerificationFailed: The version contradicts its manifest.
    """
    preprocessing, labels, spec = described.preprocessing, described.labels, described.preprocessing.spec
    (aside / LABELS_FILE).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    preprocessing.save(aside)
    _write_golden(aside, preprocessing, model, raw)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        task="image-classification" if isinstance(spec, ImageSpec) else "sentence-classification",
        inputs=(input_spec(spec),),
        outputs=(output_spec(len(labels)),),
        preprocessing=spec,
        labels_file=LABELS_FILE,
        max_batch_size=described.max_batch_size,
        provenance=described.provenance,
        accuracy=accuracy,
        parity=parity,
        model_digest="",
    )
    write_manifest(sealed(manifest, aside), aside)
    verify_version(aside)


def _write_golden(aside: Path, preprocessing: Preprocessing, model: Reference, raw: Sequence[bytes]) -> None:
    def tensors(raw: Sequence[bytes]) -> np.ndarray:
        return preprocessing.inputs_of_raw(list(raw)).batch(np.arange(len(raw)))

    golden = tuple(raw)
    if isinstance(preprocessing.spec, ImageSpec):
        golden += doubted_pictures(golden, lambda pictures: model.answer(tensors(pictures)))
    inputs = tensors(golden)
    write_golden(Golden(golden, (inputs,), (model.answer(inputs),)), aside / GOLDEN_FILE)


def _accuracy(data: DataSet, score: Score, torch_value: float) -> Accuracy:
    return Accuracy(
        metric="top1",
        torch_value=torch_value,
        dataset=data.name,
        split=data.test_name,
        **dataclasses.asdict(score),
    )


def _provenance(recipe: Recipe, record: RunRecord) -> Provenance:
    return Provenance(
        architecture=recipe.architecture,
        recipe=recipe.name,
        seed=record.seed,
        dataset=record.dataset,
        libraries=record.libraries,
        git_commit=record.git_commit,
        created=record.created,
    )


def _next_version(model_dir: Path) -> int:
    there = model_dir.iterdir() if model_dir.is_dir() else ()
    return max((int(entry.name) for entry in there if entry.name.isdecimal()), default=0) + 1


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
