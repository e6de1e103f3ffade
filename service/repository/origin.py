"""What a READY version was loaded from, to tell files that were changed from files that were only touched."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from service.digests import check_digests, digest_of
from service.errors import LoadError
from service.manifest import MANIFEST_FILE, MODEL_FILE, Manifest, read_manifest
from service.repository import store
from service.repository.store import Fingerprint, VersionFolder
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version was loaded from; it keeps no session.

    Attributes:
        fingerprint: The fingerprint of its files.
        settings: The settings, the model's ``serving.toml`` included.
        manifest: Its manifest; None for a bare graph.
        digest: ``sha256:…`` of model.onnx.
    """

    fingerprint: Fingerprint
    settings: Settings
    manifest: Manifest | None
    digest: str

    def is_what_is_on_disk(self, folder: VersionFolder, settings: Settings) -> bool:
        """Return whether loading a version now would give what is served already. Reads every file; may block.

        That is so after chmod, touch, a backup by hard links, or a checkout that writes the same bytes. Which of a
        model's versions are served does not matter. A file of which no digest is known (weights beside a bare graph)
        counts as changed if its size or modification time is another.
        """
        if dataclasses.replace(settings, versions=self.settings.versions) != self.settings:
            return False
        try:
            if self.manifest is None:
                if os.path.lexists(folder.path / MANIFEST_FILE) or digest_of(folder.path / MODEL_FILE) != self.digest:
                    return False
            elif read_manifest(folder.path) != self.manifest:
                return False
            else:
                check_digests(self.manifest, folder.path)
        except LoadError:
            return False
        if self.manifest is not None and self.manifest.digests is not None:
            return True
        return _without_digest(store.fingerprint(folder)) == _without_digest(self.fingerprint)


def _without_digest(fingerprint: Fingerprint) -> list[tuple[str, int, int]]:
    compared = (MODEL_FILE, MANIFEST_FILE, store.SERVING_FILE)
    return [(name, size, modified) for name, size, modified, _ in fingerprint if name not in compared]
