"""Data sets behind one interface, and the table of their readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from export.data.base import DataSet, Source, Split, divide, report, with_fold
from export.data.pictures import read_pictures
from export.data.sentences import read_phrases, read_sentences
from export.errors import DataInvalid, RecipeInvalid
from export.recipe import Recipe
from service.spec import ImageSpec

__all__ = ["READERS", "DataSet", "Source", "Split", "check_learnable", "divide", "open_data", "report", "with_fold"]


def _pictures(source: Source, recipe: Recipe) -> DataSet:
    if not isinstance(recipe.preprocessing, ImageSpec):
        raise RecipeInvalid(f"{recipe.name}: reader 'pictures' needs preprocessing.kind = 'image'")
    return read_pictures(source, recipe.data.name, recipe.data.labels, recipe.preprocessing)


def _texts(read: Callable[[Source, str, Sequence[str]], DataSet], source: Source, recipe: Recipe) -> DataSet:
    if isinstance(recipe.preprocessing, ImageSpec):
        raise RecipeInvalid(f"{recipe.name}: reader '{recipe.data.reader}' needs preprocessing.kind = 'text'")
    return read(source, recipe.data.name, recipe.data.labels)


READERS: dict[str, Callable[[Source, Recipe], DataSet]] = {
    "pictures": _pictures,
    "sentences": partial(_texts, read_sentences),
    "phrases": partial(_texts, read_phrases),
}


def open_data(recipe: Recipe, source: Source) -> DataSet:
    """Read the data set of a recipe.

    Raises:
        RecipeInvalid: There is no such reader, or it does not fit the preprocessing.
        DataInvalid: The data are missing or invalid; the message names the file and, if any, the row.
    """
    if recipe.data.reader not in READERS:
        raise RecipeInvalid(f"data.reader: expected one of {', '.join(READERS)}, got {recipe.data.reader!r}")
    return READERS[recipe.data.reader](source, recipe)


def check_learnable(data: DataSet, recipe: Recipe, source: Source) -> None:
    """Refuse to train a class without an example.

    Raises:
        DataInvalid: The message names the class.
    """
    if absent := sorted({*range(data.classes)} - {*data.train.labels.tolist()}):
        number = absent[0]
        raise DataInvalid(
            f"{source.path}: has no training examples of class {number} ({recipe.data.labels[number]}); "
            "each label of the recipe needs some"
        )
