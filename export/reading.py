"""Says by which recipe the data of a published version are read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from export.errors import RecipeInvalid
from export.provenance import LOADED
from export.recipe import Recipe, bundled_recipes, find_recipe
from service.manifest import Manifest, read_labels
from service.spec import ImageSpec


def recipe_of(version_dir: Path, manifest: Manifest, given: str | None) -> Recipe:
    """Return the recipe that was given, else the version's own, with the version's labels and size of pictures.

    Raises:
        RecipeInvalid: None was given and the version's own is not bundled, or the one that was given is not valid.
    """
    assert manifest.labels_file is not None
    own = manifest.provenance.recipe
    if given is None and own == LOADED:
        raise RecipeInvalid(
            f"{version_dir}: was loaded, so no recipe says how to read the data; "
            f"give --recipe {'|'.join(bundled_recipes())}|FILE.toml whose [data] fits"
        )
    if given is None and own not in bundled_recipes():
        raise RecipeInvalid(
            f"{version_dir}: its recipe '{own}' is not a bundled one; give --recipe RUN_DIR/recipe.toml of its run"
        )
    recipe = find_recipe(given or own)
    # The version's own labels decide the class index of each folder of pictures.
    data = dataclasses.replace(recipe.data, labels=read_labels(version_dir / manifest.labels_file))
    spec = manifest.preprocessing
    preprocessing = spec if isinstance(spec, ImageSpec) else recipe.preprocessing
    return dataclasses.replace(recipe, data=data, preprocessing=preprocessing)
