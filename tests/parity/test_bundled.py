"""The bundled model repository keeps what its manifests say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.recipe import find_recipe
from export.verify import verify_version
from service.manifest import MANIFEST_FILE, MODEL_FILE, read_labels, read_manifest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
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


@pytest.mark.parametrize("version", BUNDLED, ids=lambda version: version.parent.name)
def test_the_documents_state_its_own_figures(version: Path) -> None:
    manifest, name = read_manifest(version), version.parent.name
    (accuracy,) = manifest.accuracy
    value, count = f"{100 * accuracy.value:.2f}%", f"{accuracy.count:,}"
    low, high = 100 * accuracy.interval_low, 100 * accuracy.interval_high
    size, difference = (version / MODEL_FILE).stat().st_size / 1e6, f"{manifest.parity.max_abs_difference:.1e}"
    (row,) = re.findall(rf"^\| {name} \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (full,) = re.findall(rf"^\| {name}/{version.name} \|.*$", page, re.MULTILINE)
    stated = row.split(" | ")
    assert stated[3].startswith(f"{value} top-1")
    assert float(stated[4].removesuffix(" MB |")) == pytest.approx(size, abs=0.06)
    torch = f"{100 * accuracy.torch_value:.2f}%"
    assert full.startswith(f"| {name}/{version.name} | {value} of {count} (")
    assert full.endswith(f"| {low:.2f} to {high:.2f}% | {torch} | {difference} | {size:.2f} MB |")


def test_the_bundle_is_small() -> None:
    total = sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file())
    assert total <= 16 * 2**20
