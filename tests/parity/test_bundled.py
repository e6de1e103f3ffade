"""The bundled model repository keeps what its manifests say."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.recipe import find_recipe
from export.verify import verify_version
from service.manifest import MANIFEST_FILE, read_labels

MODELS = Path(__file__).resolve().parents[2] / "models"
BUNDLED = sorted(path.parent for path in MODELS.glob(f"*/*/{MANIFEST_FILE}"))


def test_the_models_are_there() -> None:
    expected = {"lenet5-mnist", "fastnet94-cifar10", "resnet20-cifar10", "textcnn-mr", "textcnn-trec"}
    assert expected <= {version.parent.name for version in BUNDLED}


@pytest.mark.parametrize("version", BUNDLED, ids=lambda version: version.parent.name)
def test_a_bundled_version_verifies(version: Path) -> None:
    manifest, worst = verify_version(version)
    assert worst <= manifest.parity.tolerance
    assert set(manifest.parity.batch_sizes) >= {1, 2, 7, 32}
    recipe = find_recipe(manifest.provenance.recipe)
    assert recipe.name == version.parent.name
    assert recipe.spec == manifest.preprocessing
    assert read_labels(version / "labels.txt") == recipe.data.labels


def test_the_bundle_is_small() -> None:
    total = sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file())
    assert total <= 16 * 2**20
