"""Brings a version that was published before under digests: all its files, where model.onnx alone had one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from export.errors import VerificationFailed
from export.publish import Say
from export.recipe import bundled_recipes, find_recipe
from export.verify import verify_version
from service.digests import sealed
from service.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, read_labels, read_manifest, write_manifest


def seal_version(version_dir: Path, say: Say) -> None:
    """Verify a version and give it digests of all that it is made of; nothing but its manifest changes, at once.

    No golden answer tells labels in another order, so those of a bundled recipe are compared with it, and others are
    shown to be looked at. A version that has its digests is verified by them and stays as it is.

    Args:
        version_dir: The version.
        say: Hears one line a step.

    Raises:
        LoadError: A file cannot be read, or is not the one that the manifest means.
        VerificationFailed: The golden answers are not reproduced, or the labels are not the recipe's.
    """
    manifest = read_manifest(version_dir)
    if manifest.digests is not None:
        verify_version(version_dir)
        say(f"{version_dir}: has digests of {', '.join(manifest.digests)} already, and they hold")
        return
    made = sealed(manifest, version_dir)
    if made.model_digest != manifest.model_digest:
        path = version_dir / MODEL_FILE
        raise VerificationFailed(f"{path}: digest is {made.model_digest}, the manifest says {manifest.model_digest}")
    _, worst = verify_version(version_dir, made)
    _check_labels(version_dir, manifest, say)
    with tempfile.TemporaryDirectory(prefix=".aside-", dir=version_dir.parent) as aside:
        write_manifest(made, Path(aside))
        written = Path(aside) / MANIFEST_FILE
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(version_dir / MANIFEST_FILE)
    assert made.digests is not None
    say(f"{version_dir}: golden answers within {worst:.2g}; sealed with digests of {', '.join(made.digests)}")


def _check_labels(version_dir: Path, manifest: Manifest, say: Say) -> None:
    if manifest.labels_file is None:
        return
    labels = read_labels(version_dir / manifest.labels_file)
    recipe = manifest.provenance.recipe
    if recipe not in bundled_recipes():
        say(f"{version_dir}: see whether its labels are in the order of its classes: {', '.join(labels)}")
    elif labels != (expected := find_recipe(recipe).data.labels):
        raise VerificationFailed(f"{version_dir}: labels are {', '.join(labels)}; the recipe's {', '.join(expected)}")
