"""Looks at the repository at intervals, so that new versions are served without a call."""

from __future__ import annotations

import logging
import threading

from service.repository.overlooked import Overlooked
from service.repository.reconciler import Reconciler
from service.vital import OnDeath, vital_thread

_LOG = logging.getLogger(__name__)


class Watcher:
    """Polls the repository from its own thread. Owned by the server, which stops it."""

    def __init__(self, reconciler: Reconciler, overlooked: Overlooked, every_seconds: float, on_death: OnDeath) -> None:
        """Wire up; see :meth:`start`. ``on_death`` is called if the thread that looks dies."""
        self._reconciler = reconciler
        self._overlooked = overlooked
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = vital_thread("watcher", self._watch, on_death)

    def start(self) -> None:
        """Look at intervals from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, without waiting for a look that is under way."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_seconds):
            try:
                self._reconciler.poll()
                self._overlooked.tell()
            except Exception:
                _LOG.exception("checking the repository failed; the next check comes as scheduled")
