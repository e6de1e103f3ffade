"""Small synthetic data sets, recipes and models for the export tests; nothing here is anybody's data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from export.recipe import Recipe, find_recipe, parse_recipe
from service.metrics import Metrics
from service.repository.loading import load
from service.repository.servable import Servable
from service.repository.store import VersionFolder
from service.settings import Settings

GOOD = ("fine", "warm", "funny", "moving", "bright", "lovely")
BAD = ("dull", "cheap", "loud", "boring", "stupid", "weak")
PLAIN = ("the", "film", "a", "story", "is", "and", "with", "actors", ",", "scene", "it's", "music")


def picture_arrays(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes, told apart by the height of a bright bar: uint8 (N, 28, 28), int64 (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(10), per_class)
    images = rng.integers(0, 60, size=(len(labels), 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        left = rng.integers(0, 8)
        image[2 * label + 4 : 2 * label + 8, left : left + 18] = 230
    order = rng.permutation(len(labels))
    return images[order], labels[order]


def write_pictures(folder: Path, per_class: int = 20) -> Path:
    """Write train.npz and test.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", 1), ("test", 2)):
        images, labels = picture_arrays(per_class if split == "train" else 5, seed)
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    return folder


def write_sentences(path: Path, count: int = 160) -> Path:
    """Write label<TAB>text, the label being told by one word."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(count):
        label = number % 2
        words = [*rng.choice(PLAIN, size=rng.integers(1, 12)), rng.choice(GOOD if label else BAD)]
        rows.append(f"{label}\t{' '.join(rng.permutation(words))}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(rows), encoding="utf-8")
    return path


def change(text: str, **values: str) -> str:
    """Give keys of a recipe's text other values."""
    for key, value in values.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, key
    return text


def tiny_text(name: str) -> str:
    """Return a bundled recipe, made to learn the synthetic data within a second or two."""
    text = find_recipe(name).text
    if name == "lenet5-mnist":
        return change(text, epochs="6", batch_size="16", held_out="0.2", max_batch_size="33")
    return change(text, epochs="4", batch_size="8", folds="4", filters="4", dimensions="8", learning_rate="0.01",
                  sparse_learning_rate="0.05", max_batch_size="33")  # fmt: skip


def tiny_recipe(name: str, **values: str) -> Recipe:
    """Return such a recipe with further changes, parsed."""
    return parse_recipe(change(tiny_text(name), **values), "tiny.toml")


def ready(version_dir: Path) -> Servable:
    """Load a version as the server does: it is READY or an error says why."""
    folder = VersionFolder(version_dir.parent.name, int(version_dir.name), version_dir)
    settings = Settings(device="cpu", instances=1, intra_op_threads=1, max_batch_size=2)
    loaded = load(folder, settings, Metrics("0", "test"))
    loaded.batcher.close()
    assert loaded.verified
    return loaded
