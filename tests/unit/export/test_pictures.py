from __future__ import annotations

import dataclasses
import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.data import Source, check_learnable, open_data
from export.data.inputs import Preprocessing
from export.data.pictures import Pictures, encode_png
from export.errors import DataInvalid, RecipeInvalid
from export.recipe import find_recipe, parse_recipe
from tests.unit.export.samples import picture_arrays, tiny_recipe, write_pictures

RECIPE = find_recipe("lenet5-mnist")


def _write(folder: Path, **arrays: np.ndarray) -> Path:
    write_pictures(folder, per_class=2)
    np.savez(folder / "test.npz", **arrays)
    return folder


def test_archives_are_read(tmp_path: Path) -> None:
    data = open_data(RECIPE, Source(write_pictures(tmp_path, per_class=2)))
    assert isinstance(data.train, Pictures)
    assert data.train.images.shape == (20, 28, 28, 1)
    assert data.train.labels.dtype == np.int64
    assert (data.name, data.classes, data.test_name) == ("mnist", 10, "test")


def test_a_picture_travels_as_a_png_that_loses_nothing() -> None:
    images, labels = picture_arrays(1, 0)
    split = Pictures(images[..., np.newaxis], labels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(split.raw(3)))), images[3])
    colour = np.random.default_rng(0).integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(colour)))), colour)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 28, 28), np.uint8)}, "test.npz: has no array 'labels', only images"),
        (
            {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([0, 10])},
            "test.npz, row 2: label 10 is out of range, expected 0 to 9",
        ),
        (
            {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([-1, 1])},
            "test.npz, row 1: label -1 is out of range, expected 0 to 9",
        ),
        (
            {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([0])},
            "test.npz: has 2 images but 1 labels",
        ),
        (
            {"images": np.zeros((2, 32, 32), np.uint8), "labels": np.array([0, 1])},
            "test.npz: images are uint8 (2, 32, 32, 1), expected uint8 (N, 28, 28, 1)",
        ),
        (
            {"images": np.zeros((2, 28, 28), np.float32), "labels": np.array([0, 1])},
            "test.npz: images are float32 (2, 28, 28, 1), expected uint8 (N, 28, 28, 1)",
        ),
        (
            {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([0.0, 1.0])},
            "test.npz: labels are float64, expected integers",
        ),
        (
            {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array(1)},
            "test.npz: labels have the shape (), expected (N,)",
        ),
        (
            {"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([[0], [1]])},
            "test.npz: labels have the shape (2, 1), expected (N,)",
        ),
        (
            {"images": np.zeros((0, 28, 28), np.uint8), "labels": np.zeros(0, np.int64)},
            "test.npz: is empty, expected at least one example",
        ),
    ],
)
def test_a_bad_archive_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataInvalid) as caught:
        open_data(RECIPE, Source(_write(tmp_path, **arrays)))
    assert str(caught.value) == f"{tmp_path}/{message}"


def _write_no_archive(path: Path) -> None:
    path.write_bytes(b"PK no archive")


def _flip_in_deflate_stream(path: Path) -> None:
    np.savez_compressed(path, images=np.zeros((2, 28, 28), np.uint8), labels=np.array([0, 1]))
    data = bytearray(path.read_bytes())
    data[80:90] = b"\xff" * 10
    path.write_bytes(data)


def _claim_another_compression(path: Path) -> None:
    data = path.read_bytes()
    central = data.index(b"PK\x01\x02")
    path.write_bytes(data[: central + 10] + b"\x63" + data[central + 11 :])


def _save_a_bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 28, 28), np.uint8))


@pytest.mark.parametrize(
    "damage", [_write_no_archive, _flip_in_deflate_stream, _claim_another_compression, _save_a_bare_array]
)
def test_a_damaged_archive_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_pictures(tmp_path, per_class=2)
    damage(tmp_path / "train.npz")
    with pytest.raises(DataInvalid, match=r"train\.npz: cannot be read as a NumPy archive"):
        open_data(RECIPE, Source(tmp_path))


def test_damaged_files_of_torchvision_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 0x803, 10, 28, 28) + bytes(10))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, 10) + bytes(10))
    with pytest.raises(DataInvalid, match=r"MNIST/raw, train: damaged or incomplete \("):
        open_data(RECIPE, Source(tmp_path))


def test_an_archive_is_never_unpickled(tmp_path: Path) -> None:
    _write(tmp_path, images=np.zeros((1, 28, 28), np.uint8), labels=np.array([{}], dtype=object))
    with pytest.raises(DataInvalid, match=r"test\.npz: cannot be read as a NumPy archive"):
        open_data(RECIPE, Source(tmp_path))


def _write_folders(folder: Path) -> None:
    for split in ("train", "test"):
        for label in "0123456789":
            (folder / split / label).mkdir(parents=True)
            picture = np.full((28, 28, 1), int(label), dtype=np.uint8)
            (folder / split / label / "a.png").write_bytes(encode_png(picture))


def test_a_folder_a_class_passes_through_the_services_preprocessing(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    Image.new("RGB", (56, 56), (9, 9, 9)).save(tmp_path / "train" / "9" / "b.jpg")
    data = open_data(RECIPE, Source(tmp_path))
    assert isinstance(data.train, Pictures)
    assert data.train.images.shape == (11, 28, 28, 1)
    assert data.train.labels.tolist() == [*range(10), 9]
    assert int(data.train.images[10, 14, 14, 0]) == 9


def test_what_a_file_becomes_is_scaled_and_cut_once(tmp_path: Path) -> None:
    """Evaluated is what was trained on, not a picture cut out of it."""
    _write_folders(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, size=(60, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "test" / "3" / "a.png")
    recipe = tiny_recipe("lenet5-mnist", resize='"shorter-edge"', resize_px="40")
    test = open_data(recipe, Source(tmp_path)).test
    assert isinstance(test, Pictures)
    (row,) = test.select([3]).images
    preprocessing = Preprocessing(recipe.spec, None)
    (sent,) = preprocessing.inputs_of_raw([test.select([3]).raw(0)]).batch([0])
    assert np.array_equal(sent, row)
    (tmp_path / "test" / "3" / "a.png").unlink()
    with pytest.raises(DataInvalid, match=r"3/a\.png: No such file"):
        test.raw(3)


def test_pictures_of_the_models_size_are_not_to_be_cut(tmp_path: Path) -> None:
    """They are trained on as they are, where the service would show the model their middle."""
    source = Source(write_pictures(tmp_path, per_class=2))
    with pytest.raises(DataInvalid, match=r"train\.npz: the server would scale these pictures to 40 pixels and crop"):
        open_data(tiny_recipe("lenet5-mnist", resize='"shorter-edge"', resize_px="40"), source)
    assert open_data(tiny_recipe("lenet5-mnist", resize='"shorter-edge"'), source).test is not None


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    bad = tmp_path / "test" / "4" / "b.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataInvalid) as caught:
        open_data(RECIPE, Source(tmp_path))
    assert str(caught.value).startswith(f"{bad}: picture is ")


def test_a_folder_without_its_label_or_pictures_is_named(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    (tmp_path / "train" / "ten").mkdir()
    with pytest.raises(DataInvalid, match=r"train/ten: 'ten' is not a label of the recipe, which has 0, 1, 2"):
        open_data(RECIPE, Source(tmp_path))


def test_a_class_without_pictures_to_learn_from_is_named(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    (tmp_path / "test" / "2" / "a.png").unlink()
    (tmp_path / "test" / "2").rmdir()
    source = Source(tmp_path)
    check_learnable(open_data(RECIPE, source), RECIPE, source)  # what is only not tested can be learnt
    (tmp_path / "train" / "3" / "a.png").unlink()
    with pytest.raises(
        DataInvalid, match=r"has no training examples of class 3 \(3\); each label of the recipe needs some"
    ):
        check_learnable(open_data(RECIPE, source), RECIPE, source)


@pytest.mark.parametrize("write", [write_pictures, _write_folders])
def test_a_test_set_alone_can_be_read_but_not_learnt(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path)
    for train in (tmp_path / "train.npz", tmp_path / "train"):
        if train.exists():
            train.rename(tmp_path / "elsewhere")
    data = open_data(RECIPE, Source(tmp_path))
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (0, 50 if (tmp_path / "test.npz").exists() else 10)
    with pytest.raises(DataInvalid, match=r"has no training examples of class 0"):
        check_learnable(data, RECIPE, Source(tmp_path))


def test_folders_cannot_hold_two_classes_of_one_label(tmp_path: Path) -> None:
    _write_folders(tmp_path)
    labels = (*RECIPE.data.labels, "7")
    recipe = dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, labels=labels))
    with pytest.raises(DataInvalid, match=r"train: cannot hold both classes labelled '7'; give train"):
        open_data(recipe, Source(tmp_path))


def test_empty_folders_are_an_empty_set(tmp_path: Path) -> None:
    for label in "0123456789":
        for split in ("train", "test"):
            (tmp_path / split / label).mkdir(parents=True)
    with pytest.raises(DataInvalid, match=r"train: is empty, expected at least one example"):
        open_data(RECIPE, Source(tmp_path))


def test_nothing_there_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"nowhere: no such folder; --download fetches MNIST into it"):
        open_data(RECIPE, Source(tmp_path / "nowhere"))
    with pytest.raises(DataInvalid, match=r": holds no MNIST; expected train\.npz .* --download fetches it"):
        open_data(RECIPE, Source(tmp_path))
    with pytest.raises(DataInvalid, match=r": holds no shapes; expected train\.npz and test\.npz, or the folders"):
        open_data(parse_recipe(RECIPE.text.replace('"mnist"', '"shapes"'), "shapes.toml"), Source(tmp_path))


def test_torchvisions_own_layout_is_read(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        images, labels = picture_arrays(1, 0)
        blob = struct.pack(">iiii", 0x803, 10, 28, 28) + images.tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(blob)
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(blob))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 0x801, 10) + labels.astype(np.uint8).tobytes()
        )
    data = open_data(RECIPE, Source(tmp_path))
    assert isinstance(data.train, Pictures)
    assert np.array_equal(data.train.images[..., 0], picture_arrays(1, 0)[0])
    with pytest.raises(
        DataInvalid, match=r"train: images are uint8 \(10, 28, 28, 1\), expected uint8 \(N, 32, 28, 1\)"
    ):
        open_data(tiny_recipe("lenet5-mnist", height="32"), Source(tmp_path))


@pytest.mark.parametrize("there", ["", "new", "new/mine"])
def test_a_download_that_fails_is_said_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    def refuse(root: str, **options: object) -> None:
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        raise RuntimeError("Error downloading x:\nTried http://a/, got:\nno network\n")

    monkeypatch.setattr("torchvision.datasets.MNIST", refuse)
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataInvalid) as caught:
        open_data(RECIPE, Source(tmp_path / "new", download=True))
    folder = tmp_path / "new"
    assert str(caught.value) == (
        f"{folder}: MNIST cannot be downloaded (no network); put its four files into {folder / 'MNIST' / 'raw'}"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_picture_sent_is_named_by_its_row() -> None:
    preprocessing = Preprocessing(RECIPE.spec, None)
    with pytest.raises(DataInvalid, match=r"example 6: picture is of an unknown format"):
        preprocessing.inputs_of_raw([encode_png(np.zeros((28, 28, 1), np.uint8)), b"what"], first_row=5)


def test_a_reader_must_fit_the_preprocessing() -> None:
    with pytest.raises(RecipeInvalid, match=r"reader 'sentences' needs preprocessing\.kind = 'text'"):
        open_data(tiny_recipe("lenet5-mnist", reader='"sentences"'), Source(Path()))
    with pytest.raises(RecipeInvalid, match=r"reader 'pictures' needs preprocessing\.kind = 'image'"):
        open_data(tiny_recipe("textcnn-mr", reader='"pictures"'), Source(Path()))
    with pytest.raises(RecipeInvalid, match=r"data\.reader: expected one of pictures, sentences, phrases, got 'sound'"):
        open_data(tiny_recipe("textcnn-mr", reader='"sound"'), Source(Path()))
