"""A recipe: everything that decides what is trained, as data, read strictly from TOML.

Two people with the same recipe, seed and data set train the same model. So everything that changes the
weights is in the recipe, and no key has a default.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from export.architectures import ARCHITECTURES
from export.augment import AUGMENTATIONS
from export.errors import RecipeInvalid
from service import strict
from service.spec import ImageSpec, TextSpec

TOKENIZER_FILE = "tokenizer.json"
# Names of models that a server reads; it ignores other folders.
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Which examples a model learns from.

    Attributes:
        reader: A key of :data:`export.data.READERS`.
        name: Name of the data set, as manifests cite it.
        labels: One word per class, in class order.
        held_out: Share of the training set that is held out for early stopping, in (0, 1); used if the set
            has no held-out part of its own.
        folds: Number of folds for a set without a test split; 0 if it has one.
    """

    reader: str
    name: str
    labels: tuple[str, ...]
    held_out: float
    folds: int


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """How sentences become ids.

    Attributes:
        kind: Always ``"text"``.
        cleaning: Name of a cleaning in :mod:`export.data.vocabulary`.
        min_count: How often a word must occur in the training examples to get a vector of its own.
            Rarer words share the vector of unknown words, which is trained that way.
        max_tokens: Longest sentence served, in tokens.
    """

    kind: Literal["text"]
    cleaning: str
    min_count: int
    max_tokens: int

    def __post_init__(self) -> None:
        """Refuse numbers that the spec refuses.

        Raises:
            ValueError: Names the key.
        """
        _ = self.spec

    @property
    def spec(self) -> TextSpec:
        """The preprocessing spec for the manifest."""
        return TextSpec("text", TOKENIZER_FILE, padding_id=0, unknown_id=1, max_tokens=self.max_tokens)


@dataclass(frozen=True, slots=True)
class Training:
    """The parameters of the training loop.

    Attributes:
        epochs: Maximum number of passes over the training part.
        patience: Number of epochs without a better held-out accuracy after which training stops.
        batch_size: Examples per step.
        optimizer: ``"sgd"`` (Nesterov, momentum 0.9) or ``"adamw"``.
        learning_rate: Peak of the schedule.
        sparse_learning_rate: Learning rate of word vectors, for SparseAdam; 0 if there are none.
        weight_decay: Weight decay of the dense weights.
        warmup: Share of all steps over which the rate rises linearly from 0.
        schedule: After the warm-up: ``"cosine"`` and ``"linear"`` fall to 0, ``"constant"`` stays.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        augmentation: A key of :data:`export.augment.AUGMENTATIONS`; ``"none"`` for sentences.
        precision: Precision of the convolutions in a training step; weights and evaluation are always
            float32.
        average: ``"lookahead"`` for slow weights that follow the fast ones, or ``"none"``.
    """

    epochs: int
    patience: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    sparse_learning_rate: float
    weight_decay: float
    warmup: float
    schedule: Literal["cosine", "linear", "constant"]
    label_smoothing: float
    augmentation: str
    precision: Literal["float32", "bfloat16"]
    average: Literal["none", "lookahead"]

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            ValueError: A value is invalid; the message names the key.
        """
        if min(self.epochs, self.patience, self.batch_size) < 1:
            raise ValueError("training: epochs, patience and batch_size must be at least 1")
        if self.learning_rate <= 0:
            raise ValueError("training.learning_rate: must be positive")
        if min(self.sparse_learning_rate, self.weight_decay) < 0:
            raise ValueError("training: sparse_learning_rate and weight_decay must be at least 0")
        if not 0 <= self.warmup < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("training: warmup and label_smoothing must be at least 0 and below 1")
        if self.augmentation not in AUGMENTATIONS:
            known = ", ".join(map(repr, AUGMENTATIONS))
            raise ValueError(f"training.augmentation: expected one of {known}, got {self.augmentation!r}")


@dataclass(frozen=True, slots=True)
class Serving:
    """What the published version is verified for. ``max_batch_size`` is the largest verified batch."""

    max_batch_size: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model, from data to version.

    Attributes:
        name: Name of the model in a repository.
        summary: One line for ``convserve-export list``.
        data: Which examples the model learns from.
        preprocessing: How raw input becomes a tensor.
        architecture: A key of :data:`export.architectures.ARCHITECTURES`.
        options: The options of that architecture.
        training: The parameters of the training loop.
        serving: What the version is verified for.
        text: The TOML that it was read from.
    """

    name: str
    summary: str
    data: DataRecipe
    preprocessing: ImageSpec | TextRecipe
    architecture: str
    options: Any
    training: Training
    serving: Serving
    text: str

    @property
    def spec(self) -> ImageSpec | TextSpec:
        """The preprocessing spec as the server reads it."""
        return self.preprocessing.spec if isinstance(self.preprocessing, TextRecipe) else self.preprocessing


@dataclass(frozen=True, slots=True)
class _Tables:
    """The keys of a recipe file. The contents of ``architecture`` and ``preprocessing`` decide their types."""

    name: str
    summary: str
    data: DataRecipe
    preprocessing: Any
    architecture: Any
    training: Training
    serving: Serving


def bundled_recipes() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    files = resources.files("export").joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def find_recipe(name_or_file: str) -> Recipe:
    """Return a bundled recipe by name, or one from a file that ends in ``.toml``.

    Raises:
        RecipeInvalid: There is no such recipe, or it is not valid.
    """
    if name_or_file.endswith(".toml"):
        return read_recipe(Path(name_or_file))
    if name_or_file not in bundled_recipes():
        known = ", ".join(bundled_recipes())
        raise RecipeInvalid(f"no recipe '{name_or_file}'; bundled: {known}; or give a file that ends in .toml")
    text = resources.files("export").joinpath("recipes", f"{name_or_file}.toml").read_text(encoding="utf-8")
    return parse_recipe(text, f"{name_or_file}.toml")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a file.

    Raises:
        RecipeInvalid: The file is missing or not valid.
    """
    try:
        return parse_recipe(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise RecipeInvalid(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeInvalid(f"{path}: not readable ({error})") from None


def parse_recipe(text: str, source: str) -> Recipe:
    """Build a recipe from its TOML. Every message begins with ``source``.

    Raises:
        RecipeInvalid: It is not TOML, or a key is unknown, missing or invalid; the message names it.
    """
    try:
        tables = strict.parse(_Tables, tomllib.loads(text))
        preprocessing = _preprocessing(tables.preprocessing)
        architecture, options = _architecture(tables.architecture)
        _check(tables)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise RecipeInvalid(f"{source}: {error}") from None
    return Recipe(
        tables.name,
        tables.summary,
        tables.data,
        preprocessing,
        architecture,
        options,
        tables.training,
        tables.serving,
        text,
    )


def _preprocessing(table: Any) -> ImageSpec | TextRecipe:
    kinds: dict[str, type[ImageSpec] | type[TextRecipe]] = {"image": ImageSpec, "text": TextRecipe}
    kind = table.get("kind") if isinstance(table, dict) else None
    if kind not in kinds:
        raise ValueError(f"preprocessing.kind: expected one of {', '.join(map(repr, kinds))}, got {kind!r}")
    return strict.parse(kinds[kind], table, "preprocessing")


def _architecture(table: Any) -> tuple[str, Any]:
    name = table.get("name") if isinstance(table, dict) else None
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture.name: expected one of {', '.join(map(repr, ARCHITECTURES))}, got {name!r}")
    options = {key: value for key, value in table.items() if key != "name"}
    return name, strict.parse(ARCHITECTURES[name].options, options, "architecture")


def _check(tables: _Tables) -> None:
    """Refuse invalid values that the types of the keys allow, and keys that contradict each other."""
    if not MODEL_NAME.fullmatch(tables.name):
        raise ValueError(
            f"name: no server reads a model named {tables.name!r}; expected at most 128 letters, digits and _.-, "
            "beginning with a letter, digit or _"
        )
    if not 0 < tables.data.held_out < 1:
        raise ValueError(f"data.held_out: expected a share between 0 and 1, got {tables.data.held_out}")
    if tables.data.folds != 0 and tables.data.folds < 2:
        raise ValueError(f"data.folds: expected 0 or at least 2, got {tables.data.folds}")
    if len(tables.data.labels) < 2 or len(set(tables.data.labels)) != len(tables.data.labels):
        raise ValueError("data.labels: expected at least two different labels")
    for label in tables.data.labels:
        if not label.strip() or len(label.splitlines()) != 1:  # labels.txt has one per line
            raise ValueError(f"data.labels: expected one line of text for each label, got {label!r}")
    if tables.data.reader != "pictures" and tables.training.augmentation != "none":
        raise ValueError("training.augmentation: expected 'none', because sentences cannot be distorted")
    if tables.serving.max_batch_size < 1:
        raise ValueError(f"serving.max_batch_size: must be at least 1, got {tables.serving.max_batch_size}")
