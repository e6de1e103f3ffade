"""Loads, proves and swaps versions in, withdraws and drains them, and knows which have fallen.

It carries out what the reconciler decides under its lock.
"""

from __future__ import annotations

import collections
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from service.batching.batcher import Batcher
from service.errors import GoldenMismatch, LoadError, LoadTimedOut, ProviderUnavailable
from service.metrics import Metrics
from service.repository import servable as servables
from service.repository import store
from service.repository.attempt import Attempt, Attempts
from service.repository.lifecycle import MISCONFIGURED, UNLOADED, UNREADABLE, Lifecycle, VersionStatus
from service.repository.origin import Origin
from service.repository.servable import Servable
from service.repository.store import Fingerprint, VersionFolder
from service.settings import Settings
from service.shortage import passes, shortage

_LOG = logging.getLogger(__name__)

Loader = Callable[[VersionFolder, Settings, Metrics, Callable[[], None], Attempt], Servable]
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Fallen:
    """A version that stopped working.

    Attributes:
        name: Model name.
        version: Version number.
        fingerprint: The fingerprint of what was loaded.
    """

    name: str
    version: int
    fingerprint: Fingerprint


class Swapper:
    """Changes the lifecycle, one version at a time. Only :meth:`give_up` and :meth:`fallen` need no lock."""

    def __init__(
        self, metrics: Metrics, lifecycle: Lifecycle, load: Loader, attempts: Attempts, drain_seconds: float
    ) -> None:
        """Wire up.

        Args:
            metrics: The families.
            lifecycle: What is changed.
            load: Loads and proves one version.
            attempts: Waits for that, and gives it up.
            drain_seconds: How long a version that leaves may take to finish its requests.
        """
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._load = load
        self._attempts = attempts
        self._drain_seconds = drain_seconds
        self._tried: dict[Place, Fingerprint] = {}
        self._in_vain: dict[Place, str] = {}
        self._origins: dict[Place, Origin] = {}  # of those that are READY
        self._fallen: collections.deque[Fallen] = collections.deque()
        self._given_up: list[weakref.ref[Batcher]] = []  # weak: only the thread of a batch keeps it, and its weights
        self._giving_up = threading.Lock()

    def needs_loading(self, folder: VersionFolder, *, retry: bool) -> bool:
        """Return whether a wanted version must be loaded, or at least be looked at closely, as :meth:`load` does.

        Args:
            folder: The version's folder.
            retry: Whether to load a version that failed although nothing has changed.
        """
        place = (folder.name, folder.version)
        status = self._lifecycle.status(*place)
        if status is None or status.is_left_out or store.fingerprint(folder) != self._tried.get(place):
            return True
        return retry and (status.state != "READY" or place in self._in_vain)

    def failure(self, name: str, version: int) -> str:
        """Return why a version does not serve as it is on disk, for callers; empty if it does."""
        status = self._lifecycle.status(name, version)
        if status is not None and status.has_failed:
            return status.hint
        hint = self._in_vain.get((name, version))
        return f"{hint}; the one loaded before continues to serve" if hint else ""

    def load(self, folder: VersionFolder, settings: Settings, *, provider_must_be_there: bool = False) -> None:
        """Load, prove and swap in one version. A READY one of the same number serves meanwhile, and after a failure.

        Nothing changes if the READY one was loaded from the very same bytes and settings.

        Raises:
            ProviderUnavailable: The demanded provider does not run, and ``provider_must_be_there`` is set.
        """
        place = (folder.name, folder.version)
        tried = self._tried[place] = store.fingerprint(folder)
        self._in_vain.pop(place, None)
        origin = self._origins.get(place)
        if not self._is_serving(folder):
            origin = None
            self._lifecycle.set_status(VersionStatus(*place, "LOADING"))
        born: list[weakref.ref[Servable]] = []  # weak, since its batcher holds on_death: or it would keep itself alive
        died = threading.Event()

        def on_death() -> None:
            died.set()
            for living in born:
                if (servable := living()) is not None:
                    self._died(servable)

        def attempt(attempt: Attempt) -> Servable | None:
            if origin is not None and origin.is_what_is_on_disk(folder, settings):
                return None
            try:
                return self._load(folder, settings, self._metrics, on_death, attempt)
            except LoadTimedOut:
                if not attempt.interrupted:  # whatever delayed it is over
                    self._fallen.append(Fallen(*place, tried))
                raise

        try:
            servable = self._attempts.make(f"load {folder.name}/{folder.version}", attempt)
        except LoadError as error:
            if provider_must_be_there and isinstance(error, ProviderUnavailable):
                raise
            self._failed(folder, error, str(error), error.hint)
            if isinstance(error, GoldenMismatch) and not self._is_serving(folder):
                self._metrics.golden_passed.labels(folder.name, str(folder.version)).set(0)
        except BaseException as error:  # a tokenizer's panic is no Exception, and must not end a thread of the server
            if not (lacking := shortage(error)):
                _LOG.exception("loading failed")
            self._failed(folder, error, lacking or "loading failed, see the log", LoadError.hint)
        else:
            if servable is None:
                fields = {"model": folder.name, "version": folder.version}
                _LOG.debug("files of a model version were touched, not changed", extra={"fields": fields})
                return
            replaced = self._put(servable, Origin(tried, settings, servable.manifest, servable.digest), folder)
            born.append(weakref.ref(servable))
            if died.is_set():  # before it was READY
                self._died(servable)
            if replaced is not None:
                self._drain(replaced)

    def _put(self, servable: Servable, origin: Origin, folder: VersionFolder) -> Servable | None:
        """Make a version READY; return the one that it replaces."""
        _LOG.info("model version is READY", extra={"fields": servables.summary(servable)})
        place = (folder.name, folder.version)
        if store.fingerprint(folder) == origin.fingerprint:
            self._origins[place] = origin
        else:  # it may have been read half and half
            self._origins.pop(place, None)
        return self._lifecycle.put(servable)

    def unload(self, servable: Servable, *, exists: bool) -> None:
        """Withdraw and drain one READY version.

        Args:
            servable: The version.
            exists: Whether it is still on disk.
        """
        place = (servable.name, servable.version)
        self._lifecycle.withdraw(servable)
        self._drain(servable)
        self._forget(place)
        self._metrics.settle()  # its last calls, which would bring its series back
        servable.metrics.close()
        _LOG.info("model version is unloaded", extra={"fields": {"model": servable.name, "version": servable.version}})
        if exists:
            self.leave_out(*place, "it was unloaded")
        else:
            self._lifecycle.forget(*place)

    def leave_out(self, name: str, version: int, hint: str) -> None:
        """Show a version that is on disk but not wanted as UNAVAILABLE, and stop lending it."""
        self._in_vain.pop((name, version), None)
        self._lifecycle.set_status(VersionStatus(name, version, "UNAVAILABLE", UNLOADED, hint))

    def leave_out_unless_ready(self, folders: Iterable[VersionFolder]) -> None:
        """Know of versions that nobody wants; one that is READY still serves."""
        for folder in folders:
            status = self._lifecycle.status(folder.name, folder.version)
            if status is None or status.has_failed:
                self.leave_out(folder.name, folder.version, "it is not loaded")

    def hold_back(self, name: str, folders: Sequence[VersionFolder], why: str) -> None:
        """Show as UNAVAILABLE what cannot be loaded since the model's folder or its ``serving.toml`` cannot be read.

        If a version is READY, the others are left as they are.

        Args:
            name: Model name.
            folders: Its versions on disk; none if its folder cannot be read.
            why: The reason, for the operator.
        """
        if self._lifecycle.servables(name):
            return
        known = {status.version: status for status in self._lifecycle.statuses_of(name)}
        hint = MISCONFIGURED if folders else UNREADABLE
        for version in [folder.version for folder in folders] or ([] if known else [0]):
            status = VersionStatus(name, version, "UNAVAILABLE", why, hint)
            before = known.get(version)
            if before is None or before.is_left_out or (before.hint == hint and before != status):
                self._lifecycle.set_status(status)

    def forget_all_but(self, name: str, versions: Collection[int]) -> None:
        """Know no more of a model's other versions that do not serve."""
        for status in self._lifecycle.statuses_of(name):
            if status.state == "UNAVAILABLE" and status.version not in versions:
                self._lifecycle.forget(name, status.version)
                self._forget((name, status.version))

    def give_up(self, servable: Servable) -> None:
        """Answer the callers of a version that hangs, and stop lending it."""
        self._fell(servable, "an instance hangs")
        self._abandon(servable)

    def fallen(self) -> list[Fallen]:
        """Return the versions to load anew: they died, hung, or were loaded only after they had been given up."""
        fallen = []
        while self._fallen:
            fallen.append(self._fallen.popleft())
        return fallen

    @property
    def runs_on(self) -> bool:
        """Whether a batch or a loading that was given up still runs in its thread."""
        return self._attempts.runs_on or any(map(_runs, self._given_up))

    def _forget(self, place: Place) -> None:
        for known in (self._tried, self._in_vain, self._origins):
            known.pop(place, None)

    def _drain(self, servable: Servable) -> None:
        """Finish a withdrawn version's requests; give up what takes too long."""
        servable.batcher.close(self._drain_seconds)
        servable.metrics.settle()
        if servable.batcher.running:
            fields = {"model": servable.name, "version": servable.version}
            _LOG.error(
                "a batch of a version that is being unloaded does not end and is given up", extra={"fields": fields}
            )
            self._abandon(servable)

    def _abandon(self, servable: Servable) -> None:
        servable.batcher.abandon()
        servable.metrics.close()  # its series may be gone when its batch ends
        servable.interrupt()
        with self._giving_up:
            self._given_up = [weakref.ref(servable.batcher), *filter(_runs, self._given_up)]

    def _is_serving(self, folder: VersionFolder) -> bool:
        return any(servable.version == folder.version for servable in self._lifecycle.servables(folder.name))

    def _failed(self, folder: VersionFolder, error: BaseException, reason: str, hint: str) -> None:
        if passes(error):  # the next look tries again, as with files that cannot be read
            self._tried[folder.name, folder.version] = ()
        fields = {"model": folder.name, "version": folder.version}
        if self._is_serving(folder):
            self._in_vain[folder.name, folder.version] = hint
            _LOG.error(
                "the changed model version cannot be loaded, the old one continues to serve: %s",
                reason,
                extra={"fields": fields},
            )
            return
        _LOG.error("model version is UNAVAILABLE: %s", reason, extra={"fields": fields})
        self._lifecycle.set_status(VersionStatus(folder.name, folder.version, "UNAVAILABLE", reason, hint))

    def _died(self, servable: Servable) -> None:
        self._fell(servable, "an instance's thread died")
        servable.metrics.close()

    def _fell(self, servable: Servable, reason: str) -> None:
        """Show that a version answers no more, unless another one serves under its number by now."""
        place = (servable.name, servable.version)
        if self._lifecycle.drop(servable, VersionStatus(*place, "UNAVAILABLE", reason, "it stopped working")):
            self._fallen.append(Fallen(*place, self._tried.get(place, ())))


def _runs(given_up: weakref.ref[Batcher]) -> bool:
    batcher = given_up()
    return batcher is not None and bool(batcher.running)
