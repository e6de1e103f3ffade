"""Runs a recipe up to tested weights: read, divide, fit, train, test. Several runs give mean and spread."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from export import provenance
from export.classifier import Classifier, build_classifier
from export.data import DataSet, Source, check_learnable, divide, open_data, report, with_fold
from export.data.inputs import Inputs, Preprocessing
from export.errors import DataInvalid, RunInvalid
from export.memory import keep_memory
from export.progress import Reporter
from export.recipe import Recipe
from export.run import (
    WEIGHTS_FILE,
    EpochRecord,
    RunRecord,
    begin_run,
    begun_otherwise,
    hold_run,
    load_tensors,
    read_run,
    replace_file,
    write_record,
)
from export.schedule import epoch_seed
from export.train import Loop, Part, evaluate
from service.manifest import Dataset

RESULT_FILE = "result.json"
_SAMPLE = 5000  # training inputs from which a network may derive weights

MakeReporter = Callable[[str, int], AbstractContextManager[Reporter]]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all runs of one command share.

    Attributes:
        recipe: The recipe, with the number of epochs to run.
        source: Where the data are.
        out: Run folder; with several runs, the parent of their folders.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        resume: Continue the runs in ``out``.
        vectors: File with word vectors, ``"own"`` to make them from the training text, or None.
    """

    recipe: Recipe
    source: Source
    out: Path
    device: str
    resume: bool
    vectors: str | None = None


def choose_device(device: str) -> str:
    """Return a torch device.

    Raises:
        RunInvalid: ``"cuda"`` was requested but torch cannot use CUDA.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RunInvalid("device 'cuda' was requested, but torch finds none; use --device auto or cpu")
    return device


def open_divided(recipe: Recipe, source: Source, seed: int, fold: int | None) -> tuple[DataSet, int | None]:
    """Read a data set. If it has no test split, hold out a fold instead, the first for None.

    Returns:
        The data, and which fold is the test split; None if the set has a test split of its own.

    Raises:
        DataInvalid: The data are invalid, have no such fold, or need folds and the recipe has none.
    """
    data = open_data(recipe, source)
    if data.test is not None and fold is None:
        return data, None
    if data.test is None and recipe.data.folds == 0:
        raise DataInvalid(
            f"{source.path}: has no test split, and the recipe has data.folds = 0; expected at least 2 folds"
        )
    fold = fold or 0
    return with_fold(data, fold, recipe.data.folds, seed), fold


def run_once(
    plan: Plan, data: DataSet, folder: Path, make_reporter: MakeReporter, *, seed: int, fold: int | None
) -> RunRecord:
    """Train one model into a run folder and test it. A finished run is only read back.

    Raises:
        RunInvalid: The folder holds another run, or a run although ``plan.resume`` is false.
    """
    recipe, device = plan.recipe, choose_device(plan.device)
    train, held_out = divide(data, recipe.data.held_out, seed)
    preprocessing = Preprocessing.fit(recipe, train)
    fresh = _record(plan, data, seed, fold)
    record = begin_run(folder, recipe, fresh, plan.resume)
    if record.state == "finished":
        return record
    preprocessing.save(folder)
    torch.manual_seed(epoch_seed(seed, 0))
    classifier = build_classifier(recipe, preprocessing.sizes(data.classes))
    inputs = preprocessing.inputs(train)
    # Test examples are read before training, so that an unreadable one costs no training.
    assert data.test is not None
    others = [Part(preprocessing.inputs(split), split.labels) for split in (held_out, data.test)]
    word_vectors = _prepare(classifier, plan, preprocessing, inputs)
    if record.word_vectors not in (None, word_vectors):  # None: the run stopped before they were read
        raise begun_otherwise(folder, "word_vectors", record.word_vectors, word_vectors)
    record = dataclasses.replace(record, state="running", word_vectors=word_vectors)
    write_record(folder, record)
    loop = Loop(classifier, recipe.training, seed, device, folder)
    if plan.resume:
        loop.resume()

    def keep(history: tuple[EpochRecord, ...], best_epoch: int) -> None:
        write_record(folder, dataclasses.replace(record, history=history, best_epoch=best_epoch))

    with make_reporter(folder.name, recipe.training.epochs) as reporter:
        outcome = loop.run(Part(inputs, train.labels), others[0], reporter, keep)
    accuracy = None
    if not outcome.interrupted:
        with contextlib.suppress(KeyboardInterrupt):  # all epochs are complete; --resume runs the test
            _, accuracy = evaluate(classifier, others[1], device)
    record = dataclasses.replace(
        record,
        state="interrupted" if accuracy is None else "finished",
        best_epoch=outcome.best_epoch,
        history=outcome.history,
        test_accuracy=accuracy,
    )
    write_record(folder, record)
    return record


def _prepare(classifier: Classifier, plan: Plan, preprocessing: Preprocessing, inputs: Inputs) -> str | None:
    """Initialise the network from data before its first step, and return the source of its word vectors.

    Raises:
        RunInvalid: Word vectors are missing, were given to a network that takes none, or do not fit.
    """
    network = classifier.network
    if network.takes_vectors() != (plan.vectors is not None):
        needed = (
            "needs word vectors; give --vectors FILE, or --vectors own"
            if plan.vectors is None
            else "takes no word vectors; leave --vectors out"
        )
        raise RunInvalid(f"{plan.recipe.name}: {needed}")
    if plan.vectors is not None:
        vectors = preprocessing.word_vectors(plan.vectors, inputs, plan.recipe.options.dimensions)
        try:
            network.set_vectors(vectors.rows)
        except ValueError as error:
            raise RunInvalid(f"{vectors.source}: {error}") from None
        return str(vectors)
    with torch.no_grad():
        sample = torch.from_numpy(inputs.batch(np.arange(min(len(inputs), _SAMPLE))))
        network.prepare(classifier.front(sample))
    return None


def run_all(
    plan: Plan, seeds: Sequence[int], folds: Sequence[int | None], make_reporter: MakeReporter, say: Say
) -> list[RunRecord]:
    """Train every seed with every fold, one after the other, and write result.json if there are several runs.

    An interrupted run ends the series.
    """
    keep_memory()
    several = len(seeds) * len(folds) > 1
    records: list[RunRecord] = []
    for seed in seeds:
        for fold in folds:
            data, held_fold = open_divided(plan.recipe, plan.source, seed, fold)
            check_learnable(data, plan.recipe, plan.source)
            say(report(data))
            folder = plan.out / _folder_name(seed, held_fold) if several else plan.out
            with hold_run(folder):
                record = run_once(plan, data, folder, make_reporter, seed=seed, fold=held_fold)
            records.append(record)
            if record.test_accuracy is None:
                return records
            say(f"{folder}: {record.test_accuracy:.2%} of {record.test_count} ({record.test_name}) correct")
    if several:
        say(write_result(plan.out, records))
    return records


def write_result(out: Path, records: Sequence[RunRecord]) -> str:
    """Write result.json and return a summary line: mean and sample standard deviation of the accuracies."""
    values = [record.test_accuracy for record in records if record.test_accuracy is not None]
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    runs = [
        {
            "seed": record.seed,
            "fold": record.fold,
            "test_accuracy": record.test_accuracy,
            "test_count": record.test_count,
            "best_epoch": record.best_epoch,
            "seconds": round(sum(epoch.seconds for epoch in record.history), 1),
        }
        for record in records
    ]
    result = {
        "recipe": records[0].recipe,
        "metric": "top1",
        "mean": mean,
        "standard_deviation": spread,
        "runs": runs,
        "libraries": records[0].libraries,
        "git_commit": records[0].git_commit,
    }
    text = json.dumps(result, indent=2) + "\n"
    replace_file(out / RESULT_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return f"{len(values)} runs: accuracy {mean:.2%}, standard deviation {spread:.2%}, error {1 - mean:.2%}"


def load_classifier(folder: Path) -> tuple[Recipe, RunRecord, Preprocessing, Classifier]:
    """Read a run, with its classifier in evaluation mode and the best weights.

    Raises:
        RunInvalid: The folder holds no run, or a run without a complete epoch, or a damaged one.
    """
    recipe, record = read_run(folder)
    preprocessing = Preprocessing.from_dir(recipe.spec, folder)
    classifier = build_classifier(recipe, preprocessing.sizes(len(recipe.data.labels)))
    try:
        classifier.load_state_dict(load_tensors(folder / WEIGHTS_FILE))
    except RuntimeError:
        raise RunInvalid(f"{folder / WEIGHTS_FILE}: does not fit the recipe beside it; train again") from None
    return recipe, record, preprocessing, classifier.eval()


def _record(plan: Plan, data: DataSet, seed: int, fold: int | None) -> RunRecord:
    assert data.test is not None
    return RunRecord(
        recipe=plan.recipe.name,
        seed=seed,
        fold=fold,
        epochs=plan.recipe.training.epochs,
        data_path=str(plan.source.path.resolve()),
        dataset=Dataset(data.name, data.train.digest),
        test_name=data.test_name,
        state="running",
        best_epoch=0,
        history=(),
        test_accuracy=None,
        test_count=len(data.test),
        word_vectors=None,
        libraries=provenance.library_versions(),
        git_commit=provenance.git_commit(),
        created=provenance.now(),
        test_digest=data.test.digest,
        held_out_digest=data.held_out.digest if data.held_out is not None else None,
    )


def _folder_name(seed: int, fold: int | None) -> str:
    return f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}"
