"""Looks at the repository at intervals, so that new versions are served without a call; tells what it passes over."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from service.errors import SettingsError
from service.repository import store
from service.repository.reconciler import Reconciler
from service.vital import OnDeath, vital_thread

_LOG = logging.getLogger(__name__)


class Watcher:
    """Polls the repository from its own thread. Owned by the server, which stops it."""

    def __init__(self, reconciler: Reconciler, root: Path, every_seconds: float, on_death: OnDeath) -> None:
        """Wire up; see :meth:`start`. ``on_death`` is called if the thread that looks dies."""
        self._reconciler = reconciler
        self._root = root
        self._every_seconds = every_seconds
        self._told: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = vital_thread("watcher", self._watch, on_death)

    def start(self) -> None:
        """Look at intervals from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, without waiting for a look that is under way."""
        self._stop.set()

    def tell(self) -> None:
        """Log, once, what is passed over and would otherwise be missed in silence. For one thread at a time.

        An unreadable repository is reported elsewhere.
        """
        try:
            found = store.passed_over(self._root)
        except SettingsError:
            return
        for place, why in found.items():
            if self._told.get(place) != why:
                _LOG.warning("ignored in the model repository: %s", why, extra={"fields": {"place": place}})
        self._told = found

    def _watch(self) -> None:
        while not self._stop.wait(self._every_seconds):
            try:
                self._reconciler.poll()
                self.tell()
            except Exception:
                _LOG.exception("checking the repository failed; the next check comes as scheduled")
