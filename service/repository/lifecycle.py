"""The states of every model version, and the loan of a servable to a request.

LOADING -> READY -> UNLOADING -> gone, or LOADING -> UNAVAILABLE with a reason. The reconciler changes them, and so do
an instance that dies and the watchdog; requests only read dictionaries that are replaced as a whole, so a look-up takes
no lock and never meets a half-loaded model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.errors import COMING_SECONDS, InvalidInput, ModelNotFound, ModelNotReady
from service.metrics import Metrics
from service.repository.servable import Servable, show_facts

_LOG = logging.getLogger(__name__)

State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]
UNLOADED = "unloaded"
UNREADABLE = "its folder cannot be read"
MISCONFIGURED = "its serving.toml is not valid"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version as RepositoryIndex shows it.

    Attributes:
        name: Model name.
        version: Version number; 0 of a model whose versions cannot be known, since its folder cannot be read.
        state: Its state.
        reason: Why it is UNAVAILABLE, for the operator; ``UNLOADED`` if nobody wants it; empty otherwise.
        hint: The same in short, for callers: no path, no number.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    hint: str = "try again"

    @property
    def is_left_out(self) -> bool:
        """Whether it is on disk but not served, because it is not wanted."""
        return self.reason == UNLOADED

    @property
    def has_failed(self) -> bool:
        """Whether it should be served but cannot be."""
        return self.state == "UNAVAILABLE" and not self.is_left_out


class Lifecycle:
    """Owns every servable. Look-ups may come from any thread."""

    def __init__(self, metrics: Metrics, listener: Callable[[], None] = lambda: None) -> None:
        """Know nothing yet; ``listener`` is called after every change of state, on the thread that changed it."""
        self._metrics = metrics
        self._listener = listener
        self._lock = threading.Lock()
        self._statuses: dict[str, dict[int, VersionStatus]] = {}  # by name, and none without a version
        self._ready: dict[str, dict[int, Servable]] = {}
        self._newest: dict[str, Servable | None] = {}
        self._names: frozenset[str] = frozenset()
        self._required: frozenset[str] = frozenset()
        self._started = False
        self._on_withdrawal: list[Callable[[Servable], None]] = []

    def find(self, name: str, version: str = "") -> Servable:
        """Lend a READY version to a request.

        A batcher that closes meanwhile refuses its reservation, so the loan needs no return.

        Args:
            name: Model name.
            version: Decimal number, or empty for the newest that is READY.

        Raises:
            ModelNotFound: No such model or version (NOT_FOUND).
            ModelNotReady: Known, but not READY (UNAVAILABLE).
            InvalidInput: The version is not a decimal number (INVALID_ARGUMENT, as Triton).
        """
        found = self._ready.get(name, {}).get(_number(version)) if version else self._newest.get(name)
        if found is None:
            status = self.newest_status(name, version)
            raise ModelNotReady(
                f"model '{name}' version {status.version} is {status.state}: {status.hint}",
                retry_after_seconds=COMING_SECONDS if status.state == "LOADING" else None,
            )
        return found

    def lends(self, servable: Servable, version: str) -> bool:
        """Return whether :meth:`find` would lend this very servable for its name and that version."""
        if not version:
            return self._newest.get(servable.name) is servable
        return self._ready.get(servable.name, {}).get(_number(version)) is servable

    def knows(self, name: str) -> bool:
        """Return whether the repository has a model of that name; guards metric labels."""
        return name in self._names

    @property
    def is_ready(self) -> bool:
        """Whether the first round of loading is over and every required model has a READY version."""
        return self._started and all(self._ready.get(name) for name in self._required)

    def statuses(self) -> list[VersionStatus]:
        """Return every known version, by name and version."""
        with self._lock:
            return [versions[version] for _, versions in sorted(self._statuses.items()) for version in sorted(versions)]

    def statuses_of(self, name: str) -> list[VersionStatus]:
        """Return every known version of a model, by version; none of one that is not known."""
        with self._lock:
            return [status for _, status in sorted(self._statuses.get(name, {}).items())]

    def status(self, name: str, version: int) -> VersionStatus | None:
        """Return one version's status; None if it is not known."""
        return self._statuses.get(name, {}).get(version)

    def newest_status(self, name: str, version: str = "") -> VersionStatus:
        """Return the status of a version, READY or not, or of a model's newest, a wanted one if there is any.

        Raises:
            ModelNotFound: No such model or version.
            InvalidInput: The version is not a decimal number.
        """
        if version and not _number(version):
            raise InvalidInput(f"model '{name}': version must be a number, got {version!r}")
        known = self.statuses_of(name)
        if version:
            known = [status for status in known if status.version == _number(version)]
        if not known:
            raise ModelNotFound(f"no model '{name}'" + (f" version {version}" if version else ""))
        return max(known, key=lambda status: (not status.is_left_out, status.version))

    def servables(self, name: str) -> Sequence[Servable]:
        """Return the READY versions of a model, newest first; empty if there is none."""
        return tuple(self._ready.get(name, {}).values())

    def ready(self) -> list[Servable]:
        """Return every READY version."""
        return [servable for versions in self._ready.values() for servable in versions.values()]

    def require(self, names: Iterable[str]) -> None:
        """Make readiness depend on these models; each that becomes READY is required from then on."""
        with self._lock:
            self._required |= frozenset(names)

    def start(self) -> None:
        """End the first round of loading: from now on, readiness depends on what is READY."""
        self._started = True
        self._listener()

    def set_status(self, status: VersionStatus) -> None:
        """Show a version in a state other than READY, and stop lending it."""
        self._replace(status, None)

    def drop(self, servable: Servable, status: VersionStatus) -> bool:
        """Show a state in place of READY if this very servable is READY; return whether it was."""
        with self._lock:
            if self._ready.get(servable.name, {}).get(servable.version) is not servable:
                return False
            replaced = self._show(status, None)
        self._tell(replaced)
        return True

    def put(self, servable: Servable) -> Servable | None:
        """Make a version READY.

        Returns:
            The servable that it replaces under the same number, withdrawn; the caller closes it.
        """
        return self._replace(VersionStatus(servable.name, servable.version, "READY"), servable)

    def withdraw(self, servable: Servable) -> None:
        """Stop lending a version. The caller closes it and then sets its new state."""
        hint = "it takes no more requests"
        self._replace(VersionStatus(servable.name, servable.version, "UNLOADING", hint=hint), None)

    def when_withdrawn(self, let_go: Callable[[Servable], None]) -> None:
        """Call ``let_go`` with each servable that is no longer lent, on the thread that withdrew it.

        Who keeps a servable beyond a request keeps its weights. Call this before anything is loaded.
        """
        self._on_withdrawal.append(let_go)

    def forget(self, name: str, version: int) -> None:
        """Drop a version that no longer exists; a model without versions is no longer required."""
        with self._lock:
            versions = self._statuses.get(name, {})
            versions.pop(version, None)
            gone = not versions
            if gone:
                self._statuses.pop(name, None)
                self._names -= {name}
                self._required -= {name}
                self._newest = {other: newest for other, newest in self._newest.items() if other != name}
                self._ready = {other: versions for other, versions in self._ready.items() if other != name}
        self._metrics.settle()  # the last calls, which would bring the series back
        self._metrics.forget(name, str(version))
        if gone:
            self._metrics.forget(name, "")  # calls that asked for a version that there was not
        self._listener()

    def release(self, name: str) -> None:
        """Make readiness independent of a model: it was unloaded on purpose."""
        with self._lock:
            self._required -= {name}
        self._listener()

    def close(self, grace_seconds: float) -> bool:
        """Unload everything. All versions share the given time to finish what is queued.

        Returns:
            Whether it was enough. If not, a batch may still run in its thread.
        """
        give_up = time.monotonic() + grace_seconds
        leaving = self.ready()
        for servable in leaving:
            self.withdraw(servable)
        for servable in leaving:
            servable.batcher.close(max(0.0, give_up - time.monotonic()))
        return not any(servable.batcher.running for servable in leaving)

    def _replace(self, status: VersionStatus, servable: Servable | None) -> Servable | None:
        with self._lock:
            replaced = self._show(status, servable)
        self._tell(replaced)
        return replaced

    def _show(self, status: VersionStatus, servable: Servable | None) -> Servable | None:
        """Replace a version's state and servable, under the lock; return the one that it had."""
        self._statuses.setdefault(status.name, {})[status.version] = status
        versions = dict(self._ready.get(status.name, {}))
        replaced = versions.pop(status.version, None)
        if servable is not None:
            versions[status.version] = servable
        newest_first = dict(sorted(versions.items(), reverse=True))
        # Before _ready, by which readiness is judged.
        self._newest = {**self._newest, status.name: next(iter(newest_first.values()), None)}
        self._ready = {**self._ready, status.name: newest_first}
        if servable is not None:  # after _ready: the server would seem not to be ready for a moment
            self._required |= {status.name}
        self._names = self._names | {status.name}
        if status.is_left_out:  # no series reports an unwanted version as UNAVAILABLE
            self._metrics.forget(status.name, str(status.version))
        else:
            self._metrics.set_state(status.name, str(status.version), status.state)
        if servable is not None:
            show_facts(servable, self._metrics)
        return replaced

    def _tell(self, replaced: Servable | None) -> None:
        if replaced is not None:
            if replaced.shared is not None:
                replaced.shared.close()
            for let_go in self._on_withdrawal:
                let_go(replaced)
        self._listener()


def _number(version: str) -> int:
    """Return a version as a number, 0 for what cannot be one."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) <= 18 else 0
