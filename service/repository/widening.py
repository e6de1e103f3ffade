"""Gives READY versions a session for batches that have the cores to themselves, one version at a time (ADR 12)."""

from __future__ import annotations

import logging
import threading

from service.errors import LoadTimedOut
from service.repository.lifecycle import Lifecycle
from service.repository.reconciler import Reconciler
from service.repository.servable import Servable

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_SECONDS = 1.0


class Widening:
    """Looks from its own thread. Owned by the server, which stops it; its death costs nobody an answer."""

    def __init__(self, lifecycle: Lifecycle, reconciler: Reconciler) -> None:
        """Wire up; see :meth:`start`. The reconciler changes nothing while a session is opened."""
        self._lifecycle = lifecycle
        self._reconciler = reconciler
        self._stop = threading.Event()
        self._resting = threading.Event()
        self._resting.set()
        self._thread = threading.Thread(target=self._watch, name="widening", daemon=True)

    def start(self) -> None:
        """Look now, and at intervals from now on."""
        self._thread.start()

    def stop(self) -> bool:
        """Stop looking, without waiting for a look that is under way; return whether none is."""
        self._stop.set()
        return self._resting.is_set()

    def look(self) -> None:
        """Open the sessions that are not open yet and are worth it."""
        for servable in self._lifecycle.ready():
            if servable.lone is not None and not servable.lone.settled and not self._stop.is_set():
                with self._reconciler.changing:
                    if self._lifecycle.lends(servable, str(servable.version)):  # it may have left meanwhile
                        self._open(servable)

    def _open(self, servable: Servable) -> None:
        lone, batcher = servable.lone, servable.batcher
        assert lone is not None
        try:
            self._reconciler.attempts.make(f"widen {servable.name}", lambda attempt: lone.open(batcher, attempt))
        except LoadTimedOut as error:
            lone.give_up()
            fields = {"model": servable.name, "version": servable.version}
            _LOG.error("batches that run alone get no extra threads: %s", error, extra={"fields": fields})

    def _watch(self) -> None:
        while True:
            self._resting.clear()
            try:
                self.look()
            except Exception:
                _LOG.exception("checking for sessions to open failed; the next check comes as scheduled")
            finally:
                self._resting.set()
            if self._stop.wait(_LOOK_EVERY_SECONDS):
                return
