"""The model repository on disk, read as (name, version, path). Nothing is loaded here."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
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
_MOST_LOOKS = 3  # at a model that changes while it is looked at


@dataclass(frozen=True, slots=True, order=True)
class VersionFolder:
    """One version on disk, known by name only."""

    name: str
    version: int
    path: Path


@dataclass(frozen=True, slots=True)
class Contents:
    """What a repository holds.

    Attributes:
        folders: Every version, by name and version.
        unreadable: Models whose folder cannot be read, with why, for the operator.
    """

    folders: Sequence[VersionFolder]
    unreadable: Mapping[str, str]


Fingerprint = tuple[tuple[str, int, int, int], ...]


def fingerprint(folder: VersionFolder) -> Fingerprint:
    """Return names, sizes, modification times and change times of all the files of a version.

    That is cheap enough for polling; a digest of every model file would not be. A file that vanishes meanwhile or may
    not be read is left out, which is a change like any other. Nobody can set the change time, so it tells a file from
    another of the same size and modification time (``cp -p``, reproducible builds). It also changes without the
    content: whether a READY version must be loaded anew, its :class:`~service.repository.origin.Origin` says. Inode
    numbers do not count, since some network file systems invent them at every look.
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
        if not os.access(file, os.R_OK):
            continue
        found.append((file.name, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    return tuple(found)


def scan(root: Path) -> Contents:
    """List every version folder that holds a model file; skip what vanishes meanwhile.

    A broken link has not vanished: it is unreadable. An unreadable version is listed, as one that fails to load.

    Raises:
        SettingsError: The repository is not a readable folder.
    """
    folders: list[VersionFolder] = []
    unreadable = {}
    for model in _entries(root):
        if _NAME.fullmatch(model.name):
            try:
                folders += _versions(model)
            except OSError as error:
                unreadable[model.name] = str(error.strerror)
    return Contents(sorted(folders), unreadable)


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError as error:
        raise SettingsError(f"model repository {root}: {error.strerror}") from None


def _versions(model: Path) -> list[VersionFolder]:
    """List the versions in a folder, none in what is no folder; raise OSError if it cannot be read.

    Where one of them vanishes meanwhile, the folder may have become another one, which is looked at anew.
    """
    found: list[VersionFolder] = []
    for _ in range(_MOST_LOOKS):
        try:
            folders = [entry for entry in model.iterdir() if _VERSION.fullmatch(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            if _leads_nowhere(model):
                raise
            return []
        found = [VersionFolder(model.name, int(folder.name), folder) for folder in folders if _holds_model(folder)]
        if all(map(os.path.lexists, folders)):
            break
    return found


def _holds_model(version: Path) -> bool:
    """Tell whether a version has a model file, or might: it cannot be looked at. Raises OSError for its model."""
    file = version / MODEL_FILE
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return _leads_nowhere(version) or _leads_nowhere(file)
    except OSError:
        os.stat(f"{version.parent}/.")  # fails where it is the model's folder that lets nobody in
        return True


def _leads_nowhere(path: Path) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def passed_over(root: Path) -> dict[str, str]:
    """Return what in the repository was perhaps meant to be served or read but is not, and why.

    Keys are paths below the root. Names with a leading dot are hidden on purpose, and a folder without
    folders is no model, whatever its name.

    Raises:
        SettingsError: The repository is not a readable folder.
    """
    found: dict[str, str] = {}
    for model in _entries(root):
        if model.name.startswith("."):
            continue
        try:
            if _NAME.fullmatch(model.name):
                found |= _passed_over_in(model)
            elif _folders(model):
                found[model.name] = (
                    "a model's name has at most 128 letters, digits and _.-, beginning with a letter, digit or _"
                )
        except OSError:  # it is no folder, or told where it is to be served
            continue
    return found


def _passed_over_in(model: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    served = False
    for folder in sorted(_folders(model)):
        has_model = _holds_model(folder)
        if not _VERSION.fullmatch(folder.name):
            if has_model:
                found[f"{model.name}/{folder.name}"] = "a version's name is a positive integer without leading zeros"
        elif has_model:
            served = True
        else:
            found[f"{model.name}/{folder.name}"] = f"it holds no {MODEL_FILE}"
    if not found and not served and not _versions(model):
        found[model.name] = f"it holds no VERSION/{MODEL_FILE}"
    if os.path.exists(model / _TRITONS_FILE):
        found[f"{model.name}/{_TRITONS_FILE}"] = (
            f"Triton's settings are not read; {SERVING_FILE} sets what must differ from the defaults"
        )
    return found


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if os.path.isdir(entry) and not entry.name.startswith(".")]


def hint_above(path: Path) -> str:
    """Return a hint at the repository if the path is a model's or a version's folder in one, else nothing."""
    path = path.absolute()
    for repository in (path.parent, path.parent.parent):
        try:
            folders = scan(repository).folders
        except SettingsError:  # it is not ours to read
            continue
        if any(path in (folder.path, folder.path.parent) for folder in folders):
            return f"; did you mean --models {repository}?"
    return ""
