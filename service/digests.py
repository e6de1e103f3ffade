"""Digests of every file of a version, so that what is served is what was proven.

A manifest of schema version 1 has the digest of model.onnx only: labels in another order would go unnoticed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from service.errors import GraphInvalid, LoadError, ManifestInvalid
from service.external_data import external_files
from service.manifest import MODEL_FILE, SCHEMA_VERSION, Manifest, companions, file_digest

_LFS = b"version https://git-lfs.github.com/spec/"  # how a pointer begins (git-lfs, docs/spec.md)


def sealed(manifest: Manifest, version_dir: Path) -> Manifest:
    """Return the manifest with the digests of all files that it needs, as they are now.

    Raises:
        LoadError: One is missing or not in the version's folder itself, or model.onnx is no model.
    """
    external = external_files(version_dir / MODEL_FILE)
    for name in external:
        if Path(name).name != name:  # such a manifest would not be read
            raise GraphInvalid(f"model file has weights in {name!r}: save them in a file beside it, or inside it")
    names = {*companions(manifest), *external}
    return dataclasses.replace(
        manifest,
        schema_version=SCHEMA_VERSION,
        model_digest=digest_of(version_dir / MODEL_FILE),
        digests={name: digest_of(version_dir / name) for name in sorted(names)},
    )


def check_digests(manifest: Manifest, version_dir: Path) -> None:
    """Check every file against the digest that the manifest has of it, if it has one.

    Raises:
        GraphInvalid: model.onnx is missing or has another digest, or has weights in a file without a digest.
        ManifestInvalid: Another file is missing or has another digest.
    """
    model = version_dir / MODEL_FILE
    digest = digest_of(model)
    if digest != manifest.model_digest:
        raise GraphInvalid(
            f"model file has digest {digest}, the manifest says {manifest.model_digest}{remedy_of_pointer(model)}"
        )
    for name, expected in (manifest.digests or {}).items():
        path = version_dir / name
        if (digest := digest_of(path)) != expected:
            raise ManifestInvalid(f"{path}: has digest {digest}, the manifest says {expected}{remedy_of_pointer(path)}")
    for name in external_files(model):
        if name not in (manifest.digests or {}):
            raise GraphInvalid(
                f"model file has weights in {name!r}, for which the manifest has no digest: "
                "save the model with its weights inside, or run `convserve-export seal` on the version"
            )


def uncovered(manifest: Manifest) -> list[str]:
    """Return the names of the files without a digest: in schema version 1, all but model.onnx."""
    return [] if manifest.digests is not None else companions(manifest)


def digest_of(path: Path) -> str:
    """Return the digest of a file of a version.

    Raises:
        LoadError: It cannot be read: GraphInvalid for model.onnx, ManifestInvalid for another file.
    """
    try:
        if path.is_file():  # a pipe would be read without end
            return file_digest(path)
    except OSError as error:
        raise _error(path, str(error.strerror)) from None
    raise _error(path, "no such file")


def remedy_of_pointer(path: Path) -> str:
    """Return what to do, for the end of an error, if Git LFS has not fetched the file; else nothing."""
    try:
        with path.open("rb") as file:
            fetched = file.read(len(_LFS)) != _LFS
    except OSError:
        fetched = True
    return "" if fetched else "; it is a Git LFS pointer, not the file itself: run `git lfs pull`"


def _error(path: Path, why: str) -> LoadError:
    return (GraphInvalid if path.name == MODEL_FILE else ManifestInvalid)(f"{path}: {why}")
