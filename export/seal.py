"""Adds the digests of all files to an older version, whose manifest has only the digest of model.onnx."""

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
    """Verify a version and add the digests of all its files. Only the manifest changes, atomically.

    Golden answers do not reveal labels in the wrong order. So the labels of a bundled recipe are compared with the
    recipe, and other labels are printed for inspection. A version that has all digests is verified and not changed.

    Raises:
        LoadError: A file cannot be read, or its digest differs from the manifest.
        VerificationFailed: The golden answers are not reproduced, or the labels are not the recipe's.
    """
    manifest = read_manifest(version_dir)
    if manifest.digests is not None:
        verify_version(version_dir)
        say(f"{version_dir}: already has digests of {', '.join(manifest.digests)}, and they match")
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
        say(f"{version_dir}: check that these labels are in class order: {', '.join(labels)}")
    elif labels != (expected := find_recipe(recipe).data.labels):
        raise VerificationFailed(f"{version_dir}: labels are {', '.join(labels)}; the recipe has {', '.join(expected)}")
