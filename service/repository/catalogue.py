"""What the repository holds and the operator wants of it. Nothing is loaded here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from service.errors import SettingsError
from service.manifest import MANIFEST_FILE
from service.repository import store, version_policy
from service.repository.store import Contents, Fingerprint, VersionFolder
from service.settings import Settings, read_model_settings

Models = Mapping[str, Sequence[VersionFolder]]
Plan = dict[str, tuple[Settings, Sequence[VersionFolder]]]


class Catalogue:
    """Reads the disk at each call. All methods but :meth:`scan` need the reconciler's lock.

    Attributes:
        root: The repository.
        unreadable: Models whose folder could not be read when :meth:`models` looked last, with place and reason.
    """

    def __init__(self, settings: Settings) -> None:
        """Know of nothing yet; the settings are the server's."""
        self._settings = settings
        self.root = Path(settings.models)
        self.unreadable: Mapping[str, str] = {}
        self._bare: dict[VersionFolder, Fingerprint] = {}  # as they looked last

    def scan(self) -> Contents:
        """Return what is on disk.

        Raises:
            SettingsError: The repository cannot be read.
        """
        return store.scan(self.root)

    def models(self) -> Models:
        """Return the versions of each model; none of one whose folder cannot be read.

        Raises:
            SettingsError: The repository cannot be read.
        """
        contents = self.scan()
        self.unreadable = {name: f"{self.root / name}: {why}" for name, why in contents.unreadable.items()}
        models = {name: list(versions) for name, versions in groupby(contents.folders, attrgetter("name"))}
        models |= {name: [] for name in contents.unreadable}
        self._bare = {folder: seen for folder, seen in self._bare.items() if folder in models.get(folder.name, ())}
        return models

    def settings_of(self, name: str) -> Settings:
        """Return how a model is served.

        Raises:
            SettingsError: Its folder could not be read at the last look, or its ``serving.toml`` is not valid.
        """
        if name in self.unreadable:
            raise SettingsError(self.unreadable[name])
        return read_model_settings(self.root / name / store.SERVING_FILE, self._settings)

    def wanted(self, folders: Sequence[VersionFolder], settings: Settings) -> list[VersionFolder]:
        """Return the versions that a model's settings name."""
        numbers = version_policy.wanted(settings.versions, (folder.version for folder in folders))
        return [folder for folder in folders if folder.version in numbers]

    def plan(self, models: Models) -> tuple[Plan, Mapping[str, str]]:
        """Return settings and wanted versions of every model to load at the start, and of others why there are none.

        Raises:
            SettingsError: The repository lacks what was asked for, or there is nothing to load.
        """
        plan: Plan = {}
        faults = {}
        for name in self._names_at_start(models):
            try:
                settings = self.settings_of(name)
            except SettingsError as error:
                faults[name] = str(error)
            else:
                plan[name] = (settings, self.wanted(models[name], settings))
        if not any(wanted for _, wanted in plan.values()) and self._settings.model_control_mode != "explicit":
            if faults:
                raise SettingsError(f"model repository {self.root} has nothing to serve: {'; '.join(faults.values())}")
            nothing = f"model repository {self.root} holds no MODEL/VERSION/model.onnx that the settings select"
            raise SettingsError(nothing + store.hint_above(self.root))
        return plan, faults

    def is_whole(self, folder: VersionFolder) -> bool:
        """Return whether a version may be loaded now. One without a manifest waits for a second look: it may follow."""
        if os.path.lexists(folder.path / MANIFEST_FILE):
            return True
        seen = store.fingerprint(folder)
        if self._bare.pop(folder, None) == seen:
            return True
        self._bare[folder] = seen
        return False

    def _names_at_start(self, models: Models) -> list[str]:
        if self._settings.model_control_mode != "explicit":
            return sorted(models)
        asked = [name for name in self._settings.load_models.split(",") if name]
        if asked == ["*"]:
            return sorted(models)
        for name in asked:
            if name not in models:
                raise SettingsError(f"--load-models: the repository {self.root} has no model '{name}'")
        return sorted(asked)
