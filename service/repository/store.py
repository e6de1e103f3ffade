"""The model repository on disk, read as (name, version, path). Nothing is loaded here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.errors import SettingsError
from service.manifest import COST_FILE, MODEL_FILE

SERVING_FILE = "serving.toml"
_TRITONS_FILE = "config.pbtxt"
# Names appear in URLs, metric labels and logs; a leading dot hides what is being written.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# As Triton and TF Serving: positive integers without leading zeros; other folders are not versions.
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True, order=True)
class VersionFolder:
    """One version on disk, known by name only."""

    name: str
    version: int
    path: Path


Fingerprint = tuple[tuple[str, int, int], ...]


def fingerprint(folder: VersionFolder) -> Fingerprint:
    """Return names, sizes and modification times of all the files of a version.

    That is cheap enough for polling; a digest of every model file would not be. A file that vanishes
    meanwhile is left out, which is a change like any other. Inode numbers and inode change times do not count: some
    network file systems invent the former, and a backup by hard links changes the latter.
    """
    files = [folder.path.parent / SERVING_FILE]
    try:
        files += folder.path.iterdir()
    except OSError:
        return ()
    found = []
    for file in sorted(files):
        if file.name.lstrip(".").startswith(COST_FILE):  # the server's own file, and its temporary ones
            continue
        try:
            about = file.stat()
        except OSError:
            continue
        found.append((file.name, about.st_size, about.st_mtime_ns))
    return tuple(found)


def by_name(folders: Iterable[VersionFolder]) -> dict[str, list[VersionFolder]]:
    """Group version folders by model, in their order."""
    names: dict[str, list[VersionFolder]] = {}
    for folder in folders:
        names.setdefault(folder.name, []).append(folder)
    return names


def scan(root: Path) -> list[VersionFolder]:
    """List every version folder that holds a model file, by name and version; skip what vanishes meanwhile.

    Raises:
        SettingsError: The repository or a model in it is not a readable folder.
    """
    try:
        models = [entry for entry in root.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name)]
        return sorted(folder for model in models for folder in _versions(model))
    except OSError as error:
        raise SettingsError(f"model repository {root}: {error.strerror}") from None


def _versions(model: Path) -> list[VersionFolder]:
    try:
        return [
            VersionFolder(model.name, int(folder.name), folder)
            for folder in model.iterdir()
            if _VERSION.fullmatch(folder.name) and (folder / MODEL_FILE).is_file()
        ]
    except FileNotFoundError:
        return []


def passed_over(root: Path) -> dict[str, str]:
    """Return what in the repository was perhaps meant to be served or read but is not, and why.

    Keys are paths below the root. Names with a leading dot are hidden on purpose, and a folder without
    folders is no model, whatever its name.

    Raises:
        SettingsError: The repository is not a readable folder.
    """
    found: dict[str, str] = {}
    try:
        for model in sorted(_folders(root)):
            if _NAME.fullmatch(model.name):
                found |= _passed_over_in(model)
            elif _folders(model):
                found[model.name] = "a model's name is at most 128 letters, digits and _.-, a letter, digit or _ first"
    except OSError as error:
        raise SettingsError(f"model repository {root}: {error.strerror}") from None
    return found


def _passed_over_in(model: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    served = False
    for folder in sorted(_folders(model)):
        has_model = (folder / MODEL_FILE).is_file()
        if not _VERSION.fullmatch(folder.name):
            if has_model:
                found[f"{model.name}/{folder.name}"] = "a version's name is a positive integer without leading zeros"
        elif has_model:
            served = True
        else:
            found[f"{model.name}/{folder.name}"] = f"it holds no {MODEL_FILE}"
    if not found and not served:
        found[model.name] = f"it holds no VERSION/{MODEL_FILE}"
    if (model / _TRITONS_FILE).exists():
        found[f"{model.name}/{_TRITONS_FILE}"] = f"it is not read: {SERVING_FILE} sets a model up"
    return found


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def hint_above(path: Path) -> str:
    """Return a hint at the repository if the path is a model's or a version's folder in one, else nothing."""
    path = path.absolute()
    for repository in (path.parent, path.parent.parent):
        try:
            folders = scan(repository)
        except SettingsError:  # it is not ours to read
            continue
        if any(path in (folder.path, folder.path.parent) for folder in folders):
            return f"; did you mean --models {repository}?"
    return ""
