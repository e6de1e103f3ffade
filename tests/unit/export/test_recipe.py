from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.errors import RecipeInvalid
from export.recipe import TextRecipe, bundled_recipes, find_recipe, parse_recipe, read_recipe
from service.spec import ImageSpec, TextSpec
from tests.unit.export.samples import change

LENET = find_recipe("lenet5-mnist").text
TEXTCNN = find_recipe("textcnn-mr").text


def test_bundled_recipes_are_valid_and_named_after_their_files() -> None:
    assert {"lenet5-mnist", "textcnn-mr"} <= set(bundled_recipes())
    for name in bundled_recipes():
        assert find_recipe(name).name == name


def test_specs_are_the_services_own() -> None:
    assert isinstance(find_recipe("lenet5-mnist").spec, ImageSpec)
    recipe = find_recipe("textcnn-mr")
    assert isinstance(recipe.preprocessing, TextRecipe)
    assert recipe.spec == TextSpec("text", "tokenizer.json", 0, 1, 512)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LENET.replace("patience =", "patients ="), "unknown key 'training.patients'"),
        (LENET.replace("warmup = 0.15\n", ""), "missing key 'training.warmup'"),
        (LENET.replace("dropout = 0.0", 'dropout = "no"'), "architecture.dropout: expected a finite number, got 'no'"),
        (LENET.replace("dropout = 0.0", "dropout = 1.5"), "dropout: expected at least 0 and below 1, got 1.5"),
        (LENET.replace("dropout = 0.0", "width = 2"), "unknown key 'architecture.width'; known: dropout"),
        (LENET.replace('"lenet5"', '"lenet6"'), "architecture.name: expected one of 'fastnet', "),
        (
            change(LENET, schedule='"step"'),
            "training.schedule: expected one of 'cosine', 'linear', 'constant', got 'step'",
        ),
        (change(LENET, kind='"sound"'), "preprocessing.kind: expected one of 'image', 'text', got 'sound'"),
        (change(LENET, epochs="true"), "training.epochs: expected int, got True"),
        (change(LENET, epochs="0"), "training: epochs, patience and batch_size must be at least 1"),
        (change(LENET, learning_rate="0"), "training.learning_rate: must be positive"),
        (change(LENET, weight_decay="-0.1"), "sparse_learning_rate and weight_decay must be at least 0"),
        (change(TEXTCNN, sparse_learning_rate="-1"), "sparse_learning_rate and weight_decay must be at least 0"),
        (change(LENET, warmup="1.0"), "training: warmup and label_smoothing must be at least 0 and below 1"),
        ("training = 3\n" + LENET.replace("[training]", "[data.more]"), "unknown key 'data.more'"),
        ("data = 3\n" + re.sub(r"(?s)\[data\].*?\[prep", "[prep", LENET), "data: expected a table, got 3"),
        (change(LENET, mean="[0.1, 0.2]"), "preprocessing: mean and std need 1 values for mode L"),
        (change(LENET, labels='["a", 3]'), "data.labels[1]: expected str, got 3"),
        (change(LENET, labels='["a", "a"]'), "data.labels: expected at least two different labels"),
        (change(LENET, held_out="1.0"), "data.held_out: expected a share between 0 and 1, got 1.0"),
        (change(LENET, max_batch_size="0"), "serving.max_batch_size: must be at least 1, got 0"),
        (change(TEXTCNN, folds="1"), "data.folds: expected 0 or at least 2, got 1"),
        (change(TEXTCNN, table='"int8"'), "architecture.table: expected one of 'float16', 'float32', got 'int8'"),
        (LENET.replace('name = "lenet5-mnist"', 'name = "my model"'), "name: no server reads a model named 'my model'"),
        (
            change(LENET, labels='["a\\\\nb", "c"]'),
            "data.labels: expected one line of text for each label, got 'a\\nb'",
        ),
        (change(LENET, labels='["a", ""]'), "data.labels: expected one line of text for each label, got ''"),
        (change(TEXTCNN, max_tokens="0"), "preprocessing: max_tokens must be at least 1, got 0"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_wrong_key_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(text, "my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert message in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeInvalid, match=rf"no recipe 'lenet'; bundled: {', '.join(bundled_recipes())}; or give"):
        find_recipe("lenet")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match=r"gone\.toml: no such file"):
        read_recipe(tmp_path / "gone.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeInvalid, match=r"bytes\.toml: not readable"):
        find_recipe(str(tmp_path / "bytes.toml"))
