"""Brings what is served in line with what the repository holds and the operator wants.

It decides what is loaded and unloaded; the swapper carries that out. It makes one change at a time, always on a thread
that no request waits for: a slow or vanished disk delays changes, never answers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from service.errors import LoadFailed, ModelNotFound, SettingsError
from service.metrics import Metrics
from service.repository import listing, version_policy
from service.repository.absences import Absences
from service.repository.attempt import Attempts
from service.repository.catalogue import Catalogue, Models, Plan
from service.repository.lifecycle import MISCONFIGURED, UNREADABLE, Lifecycle, VersionStatus
from service.repository.loading import load
from service.repository.servable import Servable
from service.repository.shortfalls import Shortfall, Shortfalls, shortfall_of
from service.repository.store import VersionFolder
from service.repository.swapper import Fallen, Loader, Swapper
from service.settings import Settings

_LOG = logging.getLogger(__name__)


class Reconciler:
    """Changes the lifecycle. Methods block, may be called from any thread, and wait for each other on ``changing``."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        lifecycle: Lifecycle,
        load: Loader = load,
        attempts: Attempts | None = None,
    ) -> None:
        """Wire up; loading has the settings' time limit unless ``attempts`` have another."""
        self._catalogue = Catalogue(settings)
        self._lifecycle = lifecycle
        self.attempts = attempts or Attempts(settings.load_timeout_seconds)
        self._swapper = Swapper(metrics, lifecycle, load, self.attempts, settings.drain_seconds)
        self._cuda_is_demanded = settings.device == "cuda"
        self.changing = threading.Lock()
        self._shortfall = partial(shortfall_of, failure=self._swapper.failure)
        self._shortfalls = Shortfalls(metrics, lifecycle)
        self._absences = Absences(lifecycle, self._catalogue.root)
        self._announced: tuple[Models, Plan] | None = None

    def announce(self) -> None:
        """Show what :meth:`load_all` will load as LOADING, without loading it.

        Call this before the server takes calls: a caller who comes early must try again, not hear of an unknown model.

        Raises:
            SettingsError: The repository cannot be read, lacks what was asked for, or holds nothing to load.
        """
        with self.changing:
            self._announced = self._survey()

    def load_all(self) -> None:
        """Load what is to be served from the start, one version after the other.

        A version that fails becomes UNAVAILABLE with its reason, as do those of a model whose ``serving.toml`` is not
        valid; the others are still loaded. If one fails that a policy ``latest:N`` wants, an older one serves, as it
        would if the server had been running. In mode ``explicit`` only the models named in ``load_models`` are loaded.
        What was announced is what is loaded, except models that a call has loaded or unloaded since.

        Raises:
            SettingsError: As for :meth:`announce`.
            ProviderUnavailable: CUDA does not run, and not only a model's ``serving.toml`` demands it.
        """
        with self.changing:
            models, plan = self._announced or self._survey()
            for name, (settings, wanted) in plan.items():
                for folder in wanted:
                    self._swapper.load(folder, settings, provider_must_be_there=self._cuda_is_demanded)
                self._stand_in(name, models[name], settings, lambda _: True)
                self._shortfalls.note(name, self._shortfall(models[name], settings.versions, wanted))
        self._lifecycle.start()

    def _survey(self) -> tuple[Models, Plan]:
        """Look at the repository for the first time; show each version as LOADING, left out or held back."""
        models = self._catalogue.models()
        plan, faults = self._catalogue.plan(models)
        self._lifecycle.require([*plan, *faults])
        for name, folders in models.items():
            _, asked = plan.get(name, (None, []))
            self._swapper.leave_out_unless_ready([folder for folder in folders if folder not in asked])
            for folder in asked:
                self._lifecycle.set_status(VersionStatus(name, folder.version, "LOADING"))
        for name, why in faults.items():
            self._hold_back(name, models[name], why)
        return models, plan

    def poll(self) -> None:
        """Look at the repository again and follow it. A version without a manifest must look the same twice first.

        An empty or unreadable repository counts as a lost disk, and serving goes on unchanged; so it does for a model
        whose folder cannot be read, and at the first look that misses something of a model that serves.
        """
        with self.changing:
            try:
                models = self._catalogue.models()
            except SettingsError as error:
                self._shortfalls.note_repository(f"cannot be read: {error}")
                return
            known = {status.name for status in self._lifecycle.statuses()}
            if not models and known:
                self._shortfalls.note_repository("is empty")
                return
            self._shortfalls.note_repository("")
            held = self._absences.look(models, self._catalogue.unreadable)
            for name in sorted((known | set(models) | self._shortfalls.names) - held):
                try:
                    self._shortfalls.note(name, self._follow(name, models.get(name), retry=False))
                except SettingsError as error:
                    self._hold_back(name, models.get(name, ()), str(error))
                except Exception:
                    self._shortfalls.note(name, Shortfall("it could not be brought up to date"))
                    _LOG.exception("a model could not be brought up to date", extra={"fields": {"model": name}})

    def load_model(self, name: str) -> None:
        """Load a model's wanted versions, or those that changed on disk, and unload its others.

        Raises:
            ModelNotFound: The repository has no such model (NOT_FOUND).
            LoadFailed: A wanted version cannot be served or is not there, or the repository cannot be read
                (FAILED_PRECONDITION). The other versions are served, and what was READY stays READY.
        """
        with self.changing:
            try:
                folders = self._catalogue.models().get(name)
            except SettingsError as error:
                _LOG.error("the model repository cannot be read: %s", error)
                raise LoadFailed("the model repository cannot be read") from None
            if folders is None:
                self._swapper.forget_all_but(name, ())
                self._shortfalls.note(name, Shortfall())
                raise ModelNotFound(f"no model '{name}' in the repository")
            try:
                shortfall = self._follow(name, folders, retry=True)
            except SettingsError as error:
                self._hold_back(name, folders, str(error))
                raise LoadFailed(f"model '{name}': {MISCONFIGURED if folders else UNREADABLE}") from None
            self._shortfalls.note(name, shortfall)
            if shortfall.problem:
                raise LoadFailed(f"model '{name}' {shortfall.problem}")
            self._settled_by_call(name)

    def unload_model(self, name: str) -> None:
        """Unload every version of a model, finishing what is queued.

        Raises:
            ModelNotFound: No such model is known (NOT_FOUND).
        """
        with self.changing:
            if not self._lifecycle.knows(name):
                raise ModelNotFound(f"no model '{name}'")
            self._settled_by_call(name)
            self._lifecycle.release(name)
            for servable in self._lifecycle.servables(name):
                self._swapper.unload(servable, exists=True)
            for status in self._lifecycle.statuses_of(name):
                if not status.is_left_out:
                    self._swapper.leave_out(name, status.version, "it was unloaded")
            self._shortfalls.note(name, Shortfall())

    def _settled_by_call(self, name: str) -> None:
        """Keep the first loading, if it is still to come, from a model of which a call has said the later word."""
        if self._announced is not None:
            self._announced[1].pop(name, None)

    def index(self) -> list[VersionStatus]:
        """Return every version that is known or on disk; only those known if the disk cannot be read."""
        try:
            contents = self._catalogue.scan()
        except SettingsError:
            contents = None
        return listing.index(self._lifecycle.statuses(), contents, self._shortfalls.absent)

    def _follow(self, name: str, folders: Sequence[VersionFolder] | None, *, retry: bool) -> Shortfall:
        """Bring one model in line. Loads before it unloads, so that the model is never without a version.

        Args:
            name: Of the model.
            folders: Its versions on disk; none if its folder cannot be read, None if it is gone.
            retry: Whether what failed is tried again.

        Returns:
            What cannot be served of the model, in words for callers.

        Raises:
            SettingsError: Its folder cannot be read, or its ``serving.toml`` is not valid; nothing has changed.
        """
        if folders is None:
            self._lifecycle.release(name)  # first, so that the server stays ready while the model is drained
            for servable in self._lifecycle.servables(name):
                self._swapper.unload(servable, exists=False)
            self._swapper.forget_all_but(name, ())
            return Shortfall()
        settings = self._catalogue.settings_of(name)
        wanted = self._catalogue.wanted(folders, settings)
        on_disk = {folder.version for folder in folders}
        waits = False
        for folder in wanted:
            if self._swapper.needs_loading(folder, retry=retry):
                if retry or self._catalogue.is_whole(folder):
                    self._swapper.load(folder, settings)
                else:
                    waits = True
        tried = wanted
        if not retry and not waits:
            tried = [*wanted, *self._stand_in(name, folders, settings, self._catalogue.is_whole)]
        ready = {servable.version: servable for servable in self._lifecycle.servables(name)}
        stand_ins = version_policy.stand_ins(settings.versions, on_disk)
        for version in version_policy.to_unload(ready, [folder.version for folder in wanted], stand_ins):
            self._swapper.unload(ready[version], exists=version in on_disk)
        self._swapper.leave_out_unless_ready([folder for folder in folders if folder not in tried])
        self._swapper.forget_all_but(name, on_disk)  # last: a model without versions is required no more
        return self._shortfall(folders, settings.versions, wanted)

    def _stand_in(
        self,
        name: str,
        folders: Sequence[VersionFolder],
        settings: Settings,
        may_load: Callable[[VersionFolder], bool],
    ) -> Sequence[VersionFolder]:
        """Load older versions if fewer are READY than are wanted and the policy allows it.

        Returns:
            The older versions that were tried, now or before: all that are newer than the last one that has to serve.
        """
        versions = {folder.version: folder for folder in folders}
        enough = len(self._catalogue.wanted(folders, settings))
        tried = []
        for version in version_policy.stand_ins(settings.versions, versions):
            folder = versions[version]
            serving = [servable.version for servable in self._lifecycle.servables(name)]
            if sum(other > version for other in serving) >= enough:
                break
            tried.append(folder)
            if len(serving) < enough and self._swapper.needs_loading(folder, retry=False) and may_load(folder):
                self._swapper.load(folder, settings)
        return tried

    def _hold_back(self, name: str, folders: Sequence[VersionFolder], why: str) -> None:
        self._swapper.hold_back(name, folders, why)
        self._shortfalls.note(name, Shortfall(why))

    def give_up(self, servable: Servable) -> None:
        """Answer the callers of a version that hangs, and stop lending it."""
        self._swapper.give_up(servable)

    def fallen(self) -> list[Fallen]:
        """Return the versions to load anew: they died, hung, or were loaded only after they had been given up."""
        return self._swapper.fallen()

    def revive(self, name: str, version: int) -> None:
        """Load a fallen version anew, unless it was unloaded or is no longer wanted.

        Raises:
            LoadFailed: The repository does not hold it now.
            SettingsError: The repository cannot be read, or the model's ``serving.toml`` is not valid.
        """
        with self.changing:
            status = self._lifecycle.status(name, version)
            if status is None or not self._swapper.failure(name, version):
                return
            folders = self._catalogue.models().get(name, ())
            folder = next((folder for folder in folders if folder.version == version), None)
            if folder is None:
                raise LoadFailed(f"model '{name}' version {version} is not in the repository")
            settings = self._catalogue.settings_of(name)
            wanted = self._catalogue.wanted(folders, settings)
            serving = len(self._lifecycle.servables(name))
            stand_ins = version_policy.stand_ins(settings.versions, [folder.version for folder in folders])
            if folder in wanted or not serving or (version in stand_ins and serving < len(wanted)):
                self._swapper.load(folder, settings)
            else:
                self._swapper.leave_out_unless_ready([folder])
            self._shortfalls.note(name, self._shortfall(folders, settings.versions, wanted))

    @property
    def runs_on(self) -> bool:
        """Whether a change is being made, or a batch or a loading that was given up still runs in its thread."""
        return self.changing.locked() or self._swapper.runs_on
