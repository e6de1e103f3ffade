"""The code and the libraries that made a model."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from service.manifest import Dataset, Provenance

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "tokenizers")
LOADED = "loaded"  # in place of a recipe's name
_PACKAGE = Path(__file__).resolve().parent
# What can change a model: the exporter and what it shares with the server.
_SOURCES = ("export", "service/preprocessing", "service/backend", "service/spec.py", "service/tensors.py")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of those installed libraries that can affect a model."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str:
    """Return the hash of HEAD, with ``-dirty`` if the sources differ from it; ``"unknown"`` outside a clone."""
    try:
        _git("ls-files", "--error-unmatch", __file__)
        commit = _git("rev-parse", "HEAD").strip()
        dirty = _git("status", "--porcelain", "--", *_SOURCES).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if dirty else commit


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def of_loaded(architecture: str, dataset: Dataset) -> Provenance:
    """Return the provenance of weights trained elsewhere; ``dataset`` holds their name and digest instead."""
    return Provenance(
        architecture=architecture,
        recipe=LOADED,
        seed=None,
        dataset=dataset,
        libraries=library_versions(),
        git_commit=git_commit(),
        created=now(),
    )


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 (fixed words)
