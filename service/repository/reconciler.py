"""Brings what is served in line with what the repository holds and the operator wants.

Loads, proves and swaps versions in; drains and unloads the others. One change at a time, always on
a thread that nobody's request waits for: a slow or vanished disk delays changes, never answers.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from service.errors import (
    GoldenMismatch,
    GraphInvalid,
    LoadError,
    LoadFailed,
    ManifestInvalid,
    ModelNotFound,
    ProviderUnavailable,
    SettingsError,
)
from service.metrics import Metrics
from service.repository import servable as servables
from service.repository import store, version_policy
from service.repository.lifecycle import Lifecycle, VersionStatus
from service.repository.servable import Servable
from service.repository.store import Fingerprint, VersionFolder
from service.settings import Settings, read_model_settings

_LOG = logging.getLogger(__name__)

_HINTS: dict[type[LoadError], str] = {
    GoldenMismatch: "it did not reproduce its golden answers",
    ManifestInvalid: "its manifest, labels or golden answers are not valid",
    GraphInvalid: "its model file is damaged or not the one that its manifest names",
    LoadError: "loading failed",
}
UNLOADED = "unloaded"
Loader = Callable[[VersionFolder, Settings, Metrics, Callable[[], None]], Servable]


class Reconciler:
    """Changes the lifecycle. Methods block, may be called from any thread, and wait for each other on ``changing``."""

    def __init__(
        self, settings: Settings, metrics: Metrics, lifecycle: Lifecycle, load: Loader = servables.load
    ) -> None:
        """Wire up.

        Args:
            settings: The server's.
            metrics: The families.
            lifecycle: What is changed.
            load: Loads and proves one version.
        """
        self._settings = settings
        self._root = Path(settings.models)
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._load = load
        self.changing = threading.Lock()
        self._tried: dict[tuple[str, int], Fingerprint] = {}
        self._fallen: collections.deque[tuple[str, int]] = collections.deque()

    def load_all(self) -> None:
        """Load what is to be served from the start, one version after the other.

        A version that fails becomes UNAVAILABLE with its reason; the others go on. In mode
        ``explicit`` only the models named in ``load_models`` are loaded.

        Raises:
            SettingsError: The repository cannot be read or lacks what was asked for, or a
                ``serving.toml`` is wrong.
            ProviderUnavailable: CUDA was demanded and does not run: no version could do better.
        """
        with self.changing:
            models = store.by_name(store.scan(self._root))
            names = self._names_at_start(models)
            settings = {name: self._settings_of(name) for name in names}
            wanted = {name: self._wanted(models[name], settings[name]) for name in names}
            if not any(wanted.values()) and self._settings.model_control_mode != "explicit":
                raise SettingsError(f"model repository {self._root} holds no MODEL/VERSION/model.onnx that is wanted")
            self._lifecycle.require(names)
            for folders in wanted.values():
                for folder in folders:
                    self._lifecycle.set_status(VersionStatus(folder.name, folder.version, "LOADING"))
            for name in names:
                for folder in wanted[name]:
                    self._load_one(folder, settings[name], provider_must_be_there=True)
        self._lifecycle.start()

    def poll(self) -> None:
        """Look at the repository again and follow it.

        An empty or unreadable repository is taken for a lost disk, and everything goes on being served.
        """
        with self.changing:
            try:
                models = store.by_name(store.scan(self._root))
            except SettingsError as error:
                _LOG.error("the model repository cannot be read, serving goes on: %s", error)
                return
            known = {status.name for status in self._lifecycle.statuses()}
            if not models and known:
                _LOG.error("the model repository is empty, serving goes on")
                return
            for name in sorted(known | set(models)):
                try:
                    self._follow(name, models.get(name, []), retry=False)
                except Exception:
                    _LOG.exception("a model could not be brought up to date", extra={"fields": {"model": name}})

    def load_model(self, name: str) -> None:
        """Load a model's wanted versions, or those that changed on disk, and unload its others.

        Raises:
            ModelNotFound: The repository has no such model (NOT_FOUND).
            LoadFailed: A version cannot be served; one that was READY stays so (FAILED_PRECONDITION).
        """
        with self.changing:
            folders = self._folders(name)
            if not folders:
                raise ModelNotFound(f"no model '{name}' in the repository")
            try:
                self._follow(name, folders, retry=True)
            except SettingsError:
                _LOG.exception("a model cannot be loaded", extra={"fields": {"model": name}})
                raise LoadFailed(f"model '{name}': its serving.toml is not valid") from None
            failed = [status for status in self._lifecycle.statuses() if status.name == name]
            for status in failed:
                if status.state == "UNAVAILABLE" and status.reason != UNLOADED:
                    raise LoadFailed(f"model '{name}' version {status.version}: {status.hint}")

    def unload_model(self, name: str) -> None:
        """Unload every version of a model, finishing what is queued.

        Raises:
            ModelNotFound: No such model is known (NOT_FOUND).
        """
        with self.changing:
            if not self._lifecycle.knows(name):
                raise ModelNotFound(f"no model '{name}'")
            self._lifecycle.release(name)
            for servable in self._lifecycle.servables(name):
                self._unload(servable, exists=True)

    def index(self) -> list[VersionStatus]:
        """Return every version that is known or on disk; unreadable disks show what is known."""
        known = {(status.name, status.version): status for status in self._lifecycle.statuses()}
        try:
            on_disk = store.scan(self._root)
        except SettingsError:
            on_disk = []
        for folder in on_disk:
            known.setdefault(
                (folder.name, folder.version),
                VersionStatus(folder.name, folder.version, "UNAVAILABLE", UNLOADED, "it is not loaded"),
            )
        return [known[key] for key in sorted(known)]

    def _names_at_start(self, models: dict[str, list[VersionFolder]]) -> list[str]:
        if self._settings.model_control_mode != "explicit":
            return sorted(models)
        asked = [name for name in self._settings.load_models.split(",") if name]
        if asked == ["*"]:
            return sorted(models)
        for name in asked:
            if name not in models:
                raise SettingsError(f"--load-models: the repository {self._root} has no model '{name}'")
        return sorted(asked)

    def _folders(self, name: str) -> list[VersionFolder]:
        try:
            return store.by_name(store.scan(self._root)).get(name, [])
        except SettingsError:
            _LOG.exception("the model repository cannot be read")
            raise LoadFailed("the model repository cannot be read") from None

    def _settings_of(self, name: str) -> Settings:
        return read_model_settings(self._root / name / store.SERVING_FILE, self._settings)

    @staticmethod
    def _wanted(folders: Sequence[VersionFolder], settings: Settings) -> list[VersionFolder]:
        numbers = version_policy.wanted(settings.versions, (folder.version for folder in folders))
        return [folder for folder in folders if folder.version in numbers]

    def _follow(self, name: str, folders: Sequence[VersionFolder], *, retry: bool) -> None:
        """Bring one model in line: load first, then unload, so that it is never without a version."""
        wanted: list[VersionFolder] = []
        if folders:
            settings = self._settings_of(name)
            wanted = self._wanted(folders, settings)
            for folder in wanted:
                if self._needs_loading(folder, retry=retry):
                    self._load_one(folder, settings)
        ready = {servable.version: servable for servable in self._lifecycle.servables(name)}
        leaving = version_policy.to_unload(ready, [folder.version for folder in wanted])
        on_disk = {folder.version for folder in folders}
        for version in leaving:
            self._unload(ready[version], exists=version in on_disk)
        for status in self._lifecycle.statuses():
            if status.name == name and status.state == "UNAVAILABLE" and status.version not in on_disk:
                self._lifecycle.forget(name, status.version)

    def _needs_loading(self, folder: VersionFolder, *, retry: bool) -> bool:
        status = self._lifecycle.status(folder.name, folder.version)
        changed = store.fingerprint(folder) != self._tried.get((folder.name, folder.version))
        return status is None or changed or status.reason == UNLOADED or (retry and status.state != "READY")

    def _load_one(self, folder: VersionFolder, settings: Settings, *, provider_must_be_there: bool = False) -> None:
        """Load, prove and swap in one version; a READY one of the same number serves meanwhile, and after a failure."""
        place = (folder.name, folder.version)
        self._tried[place] = store.fingerprint(folder)
        serving = self._is_serving(folder)
        if not serving:
            self._lifecycle.set_status(VersionStatus(*place, "LOADING"))
        died = threading.Event()

        def on_death() -> None:
            died.set()
            self._on_death(folder)

        try:
            servable = self._load(folder, settings, self._metrics, on_death)
        except ProviderUnavailable as error:
            if provider_must_be_there:
                raise
            self._failed(folder, str(error), _HINTS[LoadError])
        except LoadError as error:
            if isinstance(error, GoldenMismatch):
                self._metrics.golden_passed.labels(folder.name, str(folder.version)).set(0)
            self._failed(folder, str(error), next(text for kind, text in _HINTS.items() if isinstance(error, kind)))
        except Exception:
            _LOG.exception("loading failed")
            self._failed(folder, "loading failed, see the log", _HINTS[LoadError])
        else:
            _LOG.info("model version is READY", extra={"fields": servables.summary(servable)})
            replaced = self._lifecycle.put(servable)
            if died.is_set():  # before it was READY
                self._on_death(folder)
            if replaced is not None:
                replaced.batcher.close(self._settings.drain_seconds)
                replaced.metrics.settle()

    def _is_serving(self, folder: VersionFolder) -> bool:
        return any(servable.version == folder.version for servable in self._lifecycle.servables(folder.name))

    def _failed(self, folder: VersionFolder, reason: str, hint: str) -> None:
        fields = {"model": folder.name, "version": folder.version}
        if self._is_serving(folder):
            _LOG.error(
                "the changed model version cannot be loaded, the old one serves: %s", reason, extra={"fields": fields}
            )
            return
        _LOG.error("model version is UNAVAILABLE: %s", reason, extra={"fields": fields})
        self._lifecycle.set_status(VersionStatus(folder.name, folder.version, "UNAVAILABLE", reason, hint))

    def _on_death(self, folder: VersionFolder) -> None:
        """An instance's thread died: the version answers nothing any more and says so."""
        self._fell(folder.name, folder.version, "an instance's thread died")

    def give_up(self, servable: Servable) -> None:
        """Answer the callers of a version that hangs, and lend it no more."""
        self._fell(servable.name, servable.version, "an instance hangs")
        servable.batcher.abandon()
        servable.metrics.settle()
        servable.interrupt()

    def fallen(self) -> list[tuple[str, int]]:
        """Return the versions that died or were given up since the last call."""
        fallen = []
        while self._fallen:
            fallen.append(self._fallen.popleft())
        return fallen

    def revive(self, name: str, version: int) -> None:
        """Load a fallen version anew, if the repository still holds it."""
        with self.changing:
            found = [folder for folder in self._folders(name) if folder.version == version]
            for folder in found:
                self._load_one(folder, self._settings_of(name))

    def _fell(self, name: str, version: int, reason: str) -> None:
        self._lifecycle.set_status(VersionStatus(name, version, "UNAVAILABLE", reason, "it stopped working"))
        self._fallen.append((name, version))

    def _unload(self, servable: Servable, *, exists: bool) -> None:
        self._lifecycle.withdraw(servable)
        servable.batcher.close(self._settings.drain_seconds)
        self._tried.pop((servable.name, servable.version), None)
        _LOG.info("model version is unloaded", extra={"fields": {"model": servable.name, "version": servable.version}})
        if exists:
            self._metrics.forget(servable.name, str(servable.version))
            status = VersionStatus(servable.name, servable.version, "UNAVAILABLE", UNLOADED, "it was unloaded")
            self._lifecycle.set_status(status)
        else:
            self._lifecycle.forget(servable.name, servable.version)
