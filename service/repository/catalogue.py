"""What the repository holds and the operator wants of it. Nothing is loaded here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
        """Know of nothing yet.

        Args:
            settings: The server's.
        """
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
        models = store.by_name(contents.folders) | {name: [] for name in contents.unreadable}
        self._bare = {folder: seen for folder, seen in self._bare.items() if folder in models.get(folder.name, ())}
        return models

    def settings_of(self, name: str) -> Settings:
        """Return how a model is served.

        Raises:
            SettingsError: Its folder could not be read at the last look, or its ``serving.toml`` is wrong.
        """
        if name in self.unreadable:
            raise SettingsError(self.unreadable[name])
        path = self.root / name / store.SERVING_FILE
        if os.path.lexists(path) and not os.path.isfile(path):  # not to be taken for none
            raise SettingsError(f"{path}: it is not a file")
        try:
            return read_model_settings(path, self._settings)
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None

    def wanted(self, folders: Sequence[VersionFolder], settings: Settings) -> list[VersionFolder]:
        """Return the versions that a model's settings name.

        Raises:
            SettingsError: Its setting ``versions`` is not valid.
        """
        numbers = version_policy.wanted(settings.versions, (folder.version for folder in folders))
        return [folder for folder in folders if folder.version in numbers]

    def plan(self, models: Models) -> Plan:
        """Return settings and wanted versions of every model to load at the start; none of one that cannot be read.

        Raises:
            SettingsError: The repository lacks what was asked for, or a setting is wrong.
        """
        version_policy.wanted(self._settings.versions, ())  # check the setting even without models
        plan: Plan = {}
        for name in self._names_at_start(models):
            settings = self._settings if name in self.unreadable else self.settings_of(name)
            plan[name] = (settings, self.wanted(models[name], settings))
        if not any(wanted for _, wanted in plan.values()) and self._settings.model_control_mode != "explicit":
            nothing = f"model repository {self.root} holds no MODEL/VERSION/model.onnx that the settings select"
            unreadable = "".join(f"; {why}" for why in self.unreadable.values())
            raise SettingsError(nothing + (unreadable or store.hint_above(self.root)))
        return plan

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
