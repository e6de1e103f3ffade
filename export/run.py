"""A run folder: one training run with everything that resuming and publishing need.

    recipe.toml     an exact copy of the recipe
    run.json        seed, fold, data, history, versions (:class:`RunRecord`)
    weights.pt      the best weights so far
    checkpoint.pt   the state after the last complete epoch
    tokenizer.json  for sentences

Each file but the tokenizer, which --resume writes again, is written to a temporary file and renamed. So a crash leaves
the previous one intact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from export.checksums import is_intact
from export.errors import RunInvalid
from export.recipe import Recipe, parse_recipe
from service import strict
from service.manifest import Dataset

RECIPE_FILE = "recipe.toml"
RECORD_FILE = "run.json"
WEIGHTS_FILE = "weights.pt"
CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: mean training loss, then loss and accuracy (in [0, 1]) on the held-out part."""

    epoch: int
    loss: float
    held_out_loss: float
    held_out_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What run.json holds.

    Attributes:
        recipe: Name of the recipe.
        seed: Decides weights, order, dropout, held-out part and folds.
        fold: Which fold is the test split, or null if the set has a test split of its own.
        epochs: Maximum number of epochs, from ``--epochs`` or the recipe.
        data_path: Where the data were.
        dataset: Name and digest of the training set, the held-out part included.
        test_name: Name of the test split.
        state: ``"running"`` until it is tested, and forever if it was killed; ``"interrupted"`` by Ctrl-C;
            ``"finished"``.
        best_epoch: Epoch of weights.pt; 0 before the first is complete.
        history: Each complete epoch; written when it ends.
        test_accuracy: Top-1 of weights.pt on the test split under torch, in [0, 1]; null until finished.
        test_count: Number of examples in the test split.
        word_vectors: Source and coverage of the initial word vectors; null for none.
        libraries: Versions by library.
        git_commit: Commit of the training code.
        created: When training began, ISO 8601 in UTC.
        test_digest: Digest of the test split; null in runs from before it was recorded.
        held_out_digest: Likewise of the set's own held-out part; null as well if it has none.
    """

    recipe: str
    seed: int
    fold: int | None
    epochs: int
    data_path: str
    dataset: Dataset
    test_name: str
    state: Literal["running", "interrupted", "finished"]
    best_epoch: int
    history: tuple[EpochRecord, ...]
    test_accuracy: float | None
    test_count: int
    word_vectors: str | None
    libraries: dict[str, str]
    git_commit: str
    created: str
    test_digest: str | None = None
    held_out_digest: str | None = None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json."""
    text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
    replace_file(folder / RECORD_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def read_run(folder: Path) -> tuple[Recipe, RunRecord]:
    """Read the recipe, with the run's number of epochs, and run.json.

    Raises:
        RunInvalid: The folder holds no run, or a damaged one.
        RecipeInvalid: The recipe does not fit this version of the program.
    """
    try:
        text = (folder / RECIPE_FILE).read_text(encoding="utf-8")
        record = strict.parse(RunRecord, json.loads((folder / RECORD_FILE).read_bytes()))
    except FileNotFoundError as error:
        raise RunInvalid(
            f"{folder}: holds no run ({Path(error.filename).name} is missing); give a folder that train --out wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise RunInvalid(f"{folder / RECORD_FILE}: cannot be read ({error})") from None
    recipe = parse_recipe(text, str(folder / RECIPE_FILE))
    return with_epochs(recipe, record.epochs), record


@contextlib.contextmanager
def hold_run(folder: Path) -> Iterator[None]:
    """Create a run folder if necessary, and keep other trainings out of it. A folder that stays empty is removed.

    Raises:
        RunInvalid: Another training holds it, or it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunInvalid(f"{folder}: cannot be created ({error.strerror})") from None
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunInvalid(
                    f"{folder}: another training writes into it; wait for its end, or choose another folder with --out"
                ) from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # usually it is not empty
                folder.rmdir()
    finally:
        os.close(descriptor)


def begin_run(folder: Path, recipe: Recipe, fresh: RunRecord, resume: bool) -> RunRecord:
    """Write recipe and record into a held folder, or check that the run to resume is the same.

    Returns:
        ``fresh``, or the record of the run to resume.

    Raises:
        RunInvalid: The folder holds a run although ``resume`` is false, or one that was started otherwise.
    """
    if not (folder / RECORD_FILE).exists():
        replace_file(folder / RECIPE_FILE, lambda path: path.write_text(recipe.text, encoding="utf-8"))
        write_record(folder, fresh)
        return fresh
    if not resume:
        raise RunInvalid(f"{folder}: holds a run already; --resume continues it, --out chooses another folder")
    held_recipe, held = read_run(folder)
    if held_recipe.text != recipe.text:
        raise RunInvalid(f"{folder}: holds a run of another recipe; --out chooses another folder")
    for name in ("seed", "fold", "epochs", "dataset", "test_count", "test_digest", "held_out_digest"):
        before, now = getattr(held, name), getattr(fresh, name)
        if before != now and not (before is None and name.endswith("_digest")):  # older runs have none
            raise begun_otherwise(folder, name, before, now)
    return held


def begun_otherwise(folder: Path, name: str, before: object, now: object) -> RunInvalid:
    """Return the error for a run that was started with another value of ``name``."""
    return RunInvalid(f"{folder}: the run was started with {name} {before}, not {now}; --out chooses another folder")


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """Return the recipe with another number of epochs, or unchanged for None."""
    if epochs is None:
        return recipe
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=epochs))


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint or weights."""
    replace_file(path, lambda aside: torch.save(state, aside))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read tensors and plain values. Nothing else is ever unpickled.

    Raises:
        RunInvalid: The file is missing or damaged.
    """
    try:
        if path.is_file() and not is_intact(path):
            raise ValueError("checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunInvalid(
            f"{path}: no such file, because no epoch of this run is complete; continue it with train --resume"
        ) from None
    except Exception as error:  # an unpickler may raise anything
        raise RunInvalid(f"{path}: is damaged ({type(error).__name__}); train again") from None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise RunInvalid(f"{path}: is damaged (holds no table of tensors); train again")
    return state


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a temporary file and rename it to ``path``.

    Raises:
        RunInvalid: It cannot be written, for example because the disk is full or the folder is read-only.
    """
    aside = path.with_name(f".{path.name}.aside")
    try:
        write(aside)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError if it cannot write everything
        reason = error.strerror if isinstance(error, OSError) else f"{error}; is the disk full?"
        raise RunInvalid(f"{path}: cannot be written ({reason})") from None
    finally:
        aside.unlink(missing_ok=True)  # after an error or a signal: free the space that it takes on a full disk
