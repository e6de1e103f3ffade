"""Tells the operator, once, what in the repository is passed over and would otherwise be missed in silence."""

from __future__ import annotations

import logging
from pathlib import Path

from service.errors import SettingsError
from service.repository import store

_LOG = logging.getLogger(__name__)


class Overlooked:
    """Remembers what it has logged. For one thread at a time."""

    def __init__(self, root: Path) -> None:
        """Wire up; ``root`` is the repository."""
        self._root = root
        self._told: dict[str, str] = {}

    def tell(self) -> None:
        """Log what was not there at the last look; an unreadable repository is reported elsewhere."""
        try:
            found = store.passed_over(self._root)
        except SettingsError:
            return
        for place, why in found.items():
            if self._told.get(place) != why:
                _LOG.warning("ignored in the model repository: %s", why, extra={"fields": {"place": place}})
        self._told = found
