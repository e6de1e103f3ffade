"""Brings back versions whose instance died or hangs: answers their callers, then loads and proves a new session."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from service.repository.attempt import Start, on_a_thread
from service.repository.lifecycle import Lifecycle
from service.repository.reconciler import Reconciler
from service.repository.store import Fingerprint
from service.repository.swapper import Fallen
from service.vital import OnDeath, vital_thread

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_SECONDS = 1.0
_MOST_REVIVALS = 3  # of one version within an hour; one that falls again and again needs a person
_HOUR_SECONDS = 3600.0
_STOOD_STILL = 0.5  # share of a batch's time limit: a look this late shows that the machine stood still, not a batch


class Watchdog:
    """Looks from its own thread. Owned by the server, which stops it."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        reconciler: Reconciler,
        run_timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        start: Start = on_a_thread,
        *,
        on_death: OnDeath,
    ) -> None:
        """Wire up; see :meth:`start`.

        A batch that runs longer than ``run_timeout_seconds`` counts as hanging; 0 is no limit. If the thread that looks
        dies, ``on_death`` is called.
        """
        self._lifecycle = lifecycle
        self._reconciler = reconciler
        self._run_timeout_seconds = run_timeout_seconds
        self._clock = clock
        self._start = start
        self._judges_from = -math.inf
        self._falls: dict[tuple[str, int], tuple[Fingerprint, list[float]]] = {}
        self._due: list[Fallen] = []
        self._told: set[Fallen] = set()
        self._reviving = False
        self._stop = threading.Event()
        self._thread = vital_thread("watchdog", self._watch, on_death)

    def start(self) -> None:
        """Look at intervals from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, without waiting for a look that is under way."""
        self._stop.set()

    def look(self, late_seconds: float = 0.0) -> None:
        """Give up what hangs, and load what fell anew: on another thread, since that may take long.

        Args:
            late_seconds: How late this look is. If the process stood still that long (a paused container, SIGSTOP),
                so did its batches, and they get their full time again.
        """
        limit = self._run_timeout_seconds
        if late_seconds > _STOOD_STILL * limit:
            self._judges_from = self._clock() + limit
        judges = limit > 0 and self._clock() >= self._judges_from
        for servable in self._lifecycle.ready():
            if judges and servable.batcher.is_wedged(limit):
                fields = {"model": servable.name, "version": servable.version}
                _LOG.error("an instance hangs", extra={"fields": fields})
                self._reconciler.give_up(servable)
        self._due += [fallen for fallen in self._reconciler.fallen() if self._may_revive(fallen)]
        if self._due and not self._reviving:
            due, self._due = self._due, []  # never while a revival may add to it
            self._reviving = True
            try:
                self._start("revival", lambda: self._revive(due))
            except BaseException:  # no thread, or no memory
                self._due, self._reviving = due, False
                raise

    def _may_revive(self, fallen: Fallen) -> bool:
        """Count a fall with those of the last hour; a version that has changed since its last fall starts anew."""
        place, now = (fallen.name, fallen.version), self._clock()
        loaded, falls = self._falls.get(place, (fallen.fingerprint, []))
        recent = [fell for fell in falls if now - fell < _HOUR_SECONDS] if loaded == fallen.fingerprint else []
        self._falls[place] = (fallen.fingerprint, [*recent, now])
        fields = {"model": fallen.name, "version": fallen.version, "times": len(recent) + 1}
        if len(recent) >= _MOST_REVIVALS:
            _LOG.error("model version failed too often and stays down until it changes", extra={"fields": fields})
            return False
        _LOG.warning("model version is being reloaded", extra={"fields": fields})
        return True

    def _revive(self, due: list[Fallen]) -> None:
        """Try each version once; those that cannot be loaded, or were not tried, are due again."""
        try:
            while due:
                fallen = due.pop(0)
                try:
                    self._reconciler.revive(fallen.name, fallen.version)
                    self._told.discard(fallen)
                except BaseException as error:
                    self._due.append(fallen)
                    self._tell(fallen, error)
        finally:
            self._due += due
            self._reviving = False

    def _tell(self, fallen: Fallen, error: BaseException) -> None:
        if fallen not in self._told:
            self._told.add(fallen)
            fields = {"model": fallen.name, "version": fallen.version}
            _LOG.error("model version cannot be reloaded yet: %s", error, extra={"fields": fields})

    def _watch(self) -> None:
        due = self._clock() + _LOOK_EVERY_SECONDS
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            try:
                self.look(self._clock() - due)
            except Exception:
                _LOG.exception("checking the instances failed; the next check comes as scheduled")
            due = self._clock() + _LOOK_EVERY_SECONDS
