"""Checks the checksums of files of torch.save, which torch.load itself does not check."""

from __future__ import annotations

import zipfile
from pathlib import Path


def is_intact(path: Path) -> bool:
    """Return whether every part of a zip archive has its checksum. A file that is no zip archive has none: True.

    Raises:
        OSError: The file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # damaged headers
        return False
