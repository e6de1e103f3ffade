"""The states of every model version, and the loan of a servable to a request.

LOADING -> READY -> UNLOADING -> gone, or LOADING -> UNAVAILABLE with a reason. One loader thread
changes them; requests only read two dictionaries that are replaced as a whole, so a look-up takes
no lock and never meets a half-loaded model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.errors import (
    GoldenMismatch,
    GraphInvalid,
    InvalidInput,
    LoadError,
    ManifestInvalid,
    ModelNotFound,
    ModelNotReady,
    ProviderUnavailable,
    SettingsError,
)
from service.metrics import Metrics
from service.repository import servable as servables
from service.repository import store, version_policy
from service.repository.servable import Servable
from service.repository.store import VersionFolder
from service.settings import Settings, read_model_settings

_LOG = logging.getLogger(__name__)

State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]
_HINTS: dict[type[LoadError], str] = {
    GoldenMismatch: "it did not reproduce its golden answers",
    ManifestInvalid: "its manifest, labels or golden answers are not valid",
    GraphInvalid: "its model file is damaged or not the one that its manifest names",
    LoadError: "loading failed",
}
Loader = Callable[[VersionFolder, Settings, Metrics, Callable[[], None]], Servable]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version as RepositoryIndex shows it.

    Attributes:
        name: Model name.
        version: Version number.
        state: Its state.
        reason: Why it is UNAVAILABLE, for the operator; empty otherwise.
        hint: The same in short, for callers: no path, no number.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    hint: str = "try again"


class Lifecycle:
    """Owns every servable. Look-ups are lock-free and may come from any thread."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        load: Loader = servables.load,
        listener: Callable[[], None] = lambda: None,
    ) -> None:
        """Know nothing yet; see :meth:`load_all`.

        Args:
            settings: The server's.
            metrics: The families.
            load: Loads and proves one version.
            listener: Called after every change of state, on the thread that changed it.
        """
        self._settings = settings
        self._metrics = metrics
        self._load = load
        self._listener = listener
        self._lock = threading.Lock()
        self._statuses: dict[tuple[str, int], VersionStatus] = {}
        self._ready: dict[str, dict[int, Servable]] = {}
        self._names: frozenset[str] = frozenset()
        self._all_loaded = False

    def load_all(self) -> None:
        """Scan the repository and load every wanted version, one after the other. Blocking.

        A version that fails becomes UNAVAILABLE with its reason; the others go on.

        Raises:
            SettingsError: The repository cannot be read, or a ``serving.toml`` is wrong.
            ProviderUnavailable: CUDA was demanded and does not run: no version could do better.
        """
        root = Path(self._settings.models)
        wanted: list[tuple[VersionFolder, Settings]] = []
        for name, folders in _by_name(store.scan(root)):
            settings = read_model_settings(root / name / store.SERVING_FILE, self._settings)
            chosen = set(version_policy.wanted(settings.versions, (folder.version for folder in folders)))
            wanted += [(folder, settings) for folder in folders if folder.version in chosen]
        if not wanted:
            raise SettingsError(f"model repository {root} holds no MODEL/VERSION/model.onnx")
        for folder, _ in wanted:
            self._change(VersionStatus(folder.name, folder.version, "LOADING"))
        for folder, settings in wanted:
            self._load_one(folder, settings)
        self._all_loaded = True
        self._listener()

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
        versions = self._ready.get(name)
        if versions:
            if not version:
                return next(iter(versions.values()))
            if (found := versions.get(_number(version))) is not None:
                return found
        raise self._why_not(name, version)

    def knows(self, name: str) -> bool:
        """Tell whether the repository has a model of that name; guards metric labels."""
        return name in self._names

    @property
    def is_ready(self) -> bool:
        """Whether every wanted version was loaded and is READY now."""
        return self._all_loaded and all(status.state == "READY" for status in self._statuses.values())

    def statuses(self) -> list[VersionStatus]:
        """Return every known version, by name and version."""
        with self._lock:
            return [self._statuses[key] for key in sorted(self._statuses)]

    def servables(self, name: str) -> Sequence[Servable]:
        """Return the READY versions of a model, newest first; empty if there is none."""
        return tuple(self._ready.get(name, {}).values())

    def close(self, grace_seconds: float) -> bool:
        """Unload everything, finishing what is queued within the time given, which all share.

        Returns:
            Whether it sufficed. If not, a batch may still run in its thread.
        """
        give_up = time.monotonic() + grace_seconds
        leaving = [servable for versions in self._ready.values() for servable in versions.values()]
        for servable in leaving:
            self._change(VersionStatus(servable.name, servable.version, "UNLOADING"))
        for servable in leaving:
            servable.batcher.close(max(0.0, give_up - time.monotonic()))
        return not any(servable.batcher.running for servable in leaving)

    def _load_one(self, folder: VersionFolder, settings: Settings) -> None:
        fields = {"model": folder.name, "version": folder.version}
        died = threading.Event()

        def on_death() -> None:
            died.set()
            self._on_death(folder)

        try:
            servable = self._load(folder, settings, self._metrics, on_death)
        except ProviderUnavailable:
            raise
        except LoadError as error:
            _LOG.error("model version is UNAVAILABLE: %s", error, extra={"fields": fields})
            if isinstance(error, GoldenMismatch):
                self._metrics.golden_passed.labels(folder.name, str(folder.version)).set(0)
            hint = next(text for kind, text in _HINTS.items() if isinstance(error, kind))
            self._change(VersionStatus(folder.name, folder.version, "UNAVAILABLE", str(error), hint))
        except Exception:
            _LOG.exception("model version is UNAVAILABLE", extra={"fields": fields})
            hint = _HINTS[LoadError]
            self._change(VersionStatus(folder.name, folder.version, "UNAVAILABLE", "loading failed, see the log", hint))
        else:
            _LOG.info("model version is READY", extra={"fields": fields | _summary(servable)})
            self._change(VersionStatus(folder.name, folder.version, "READY"), servable)
            if died.is_set():  # before it was READY
                self._on_death(folder)

    def _on_death(self, folder: VersionFolder) -> None:
        """An instance's thread died: the version answers nothing any more and says so."""
        reason = "an instance's thread died"
        self._change(VersionStatus(folder.name, folder.version, "UNAVAILABLE", reason, "it stopped working"))

    def _change(self, status: VersionStatus, servable: Servable | None = None) -> None:
        with self._lock:
            self._statuses[status.name, status.version] = status
            versions = dict(self._ready.get(status.name, {}))
            versions.pop(status.version, None)
            if servable is not None:
                versions[status.version] = servable
            newest_first = dict(sorted(versions.items(), reverse=True))
            self._ready = {**self._ready, status.name: newest_first}
            self._names = self._names | {status.name}
            self._metrics.set_state(status.name, str(status.version), status.state)
        self._listener()

    def _why_not(self, name: str, version: str) -> Exception:
        if version and not _number(version):
            return InvalidInput(f"model '{name}': version must be a number, got {version!r}")
        with self._lock:
            known = [status for status in self._statuses.values() if status.name == name]
        if version:
            known = [status for status in known if status.version == _number(version)]
        if not known:
            return ModelNotFound(f"no model '{name}'" + (f" version {version}" if version else ""))
        newest = max(known, key=lambda status: status.version)
        return ModelNotReady(f"model '{name}' version {newest.version} is {newest.state}: {newest.hint}")


def _number(version: str) -> int:
    """Return a version as a number, 0 for what cannot be one."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) <= 18 else 0


def _by_name(folders: Iterable[VersionFolder]) -> list[tuple[str, list[VersionFolder]]]:
    names: dict[str, list[VersionFolder]] = {}
    for folder in folders:
        names.setdefault(folder.name, []).append(folder)
    return list(names.items())


def _summary(servable: Servable) -> dict[str, object]:
    return {
        "task": servable.task,
        "verified": servable.verified,
        "golden_max_abs_error": servable.golden.max_abs_error if servable.golden else None,
        "provider": servable.provider.actual,
        "requested": servable.provider.requested,
        "max_batch_size": servable.max_batch_size,
        "load_seconds": round(servable.load_seconds, 3),
    }
