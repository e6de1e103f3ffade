"""What is missing on disk for a moment only: a folder that is being replaced is not taken for a removed one."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from service.repository.catalogue import Models
from service.repository.lifecycle import Lifecycle
from service.repository.store import SERVING_FILE

_LOG = logging.getLogger(__name__)


class Absences:
    """Remembers what the last look missed. Call it under the reconciler's lock."""

    def __init__(self, lifecycle: Lifecycle, root: Path) -> None:
        """Miss nothing yet; ``root`` is the repository."""
        self._lifecycle = lifecycle
        self._root = root
        self._missing: Mapping[str, set[str]] = {}
        self._with_settings: set[str] = set()

    def look(self, models: Models, unreadable: Collection[str]) -> set[str]:
        """Return the models to leave as they are until the next look, and log each.

        These are the models of which something is missing that was there at the last look: the model itself, a READY
        version, or the ``serving.toml``. That also counts as missing while it is empty: a shell empties a file before
        it writes.

        Args:
            models: The versions of each model on disk.
            unreadable: Models of which that cannot be known.
        """
        before, self._missing = self._missing, {}
        held = set()
        for name in {servable.name for servable in self._lifecycle.ready()}.difference(unreadable):
            ready = {servable.version for servable in self._lifecycle.servables(name)}
            missing = {f"{name}/{version}" for version in ready - {folder.version for folder in models.get(name, ())}}
            if name not in models:  # it may serve on with versions that have been missing for long
                missing.add(name)
            settings = f"{name}/{SERVING_FILE}"
            if self._has_settings(name):
                self._with_settings.add(name)
            elif name in self._with_settings:
                missing.add(settings)
            if missing:
                self._missing[name] = missing
            if new := missing - before.get(name, set()):
                held.add(name)
                fields = {"model": name, "places": sorted(new)}
                _LOG.info("what serves is missing on disk; the next look decides", extra={"fields": fields})
            elif settings in missing:
                self._with_settings.discard(name)
        return held

    def _has_settings(self, name: str) -> bool:
        path = self._root / name / SERVING_FILE
        try:
            return os.stat(path).st_size > 0
        except OSError:
            return os.path.lexists(path)  # a broken link is told of elsewhere
