"""Checks a manifest against the files beside it."""

from __future__ import annotations

from service.backend.base import Backend
from service.errors import ManifestInvalid
from service.manifest import Manifest, read_labels
from service.repository.store import VersionFolder


def check_graph(manifest: Manifest, backend: Backend) -> None:
    """Refuse a manifest that states other inputs or outputs than the graph has.

    Raises:
        ManifestInvalid: Names both.
    """
    for kind, stated, real in (
        ("inputs", manifest.inputs, backend.inputs),
        ("outputs", manifest.outputs, backend.outputs),
    ):
        if list(stated) != list(real):
            raise ManifestInvalid(
                f"{kind}: the manifest says {', '.join(map(str, stated))}, the graph has {', '.join(map(str, real))}"
            )


def labels_of(manifest: Manifest | None, folder: VersionFolder) -> tuple[str, ...]:
    """Return the labels by class; none unless a manifest names a file of labels.

    Raises:
        ManifestInvalid: The file is damaged, or does not have one label per class.
    """
    if manifest is None or manifest.labels_file is None:
        return ()
    labels = read_labels(folder.path / manifest.labels_file)
    classes = manifest.outputs[0].shape[-1]
    if classes not in (-1, len(labels)):
        raise ManifestInvalid(f"{manifest.labels_file}: has {len(labels)} labels, the output has {classes} classes")
    return labels
