"""What commands leave behind: files that the user named, pictures by matplotlib; and a line that tells what goes on."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import OptionsInvalid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_outputs(*paths: Path | None) -> None:
    """Check before a long run that its results can be written.

    Raises:
        OptionsInvalid: One of the folders is missing, or cannot be written to, or two results would share a file.
    """
    given = [path for path in paths if path is not None]
    for path in given:
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise OptionsInvalid(f"{path}: is a folder or cannot be written; give another file")
        if not path.exists() and not os.access(path.parent, os.W_OK):
            raise OptionsInvalid(f"{path}: the folder is missing or cannot be written; give another file")
    if len({path.resolve() for path in given}) < len(given):
        raise OptionsInvalid(f"{given[0]}: is given for two results; give each its own file")


def write_json(path: Path, content: dict[str, Any], *, indent: int = 1) -> None:
    """Write results.

    Raises:
        OptionsInvalid: It cannot be written.
    """
    try:
        path.write_text(json.dumps(content, indent=indent) + "\n")
    except OSError as error:
        raise OptionsInvalid(f"{path}: {error.strerror}; give another file") from None


def make_folder(path: Path, flag: str) -> None:
    """Make a folder, unless it is there.

    Raises:
        OptionsInvalid: It cannot be made; names the flag that chooses another.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsInvalid(f"{path}: {error.strerror}; give another {flag}") from None


def require_matplotlib(what: str = "--plot") -> None:
    """Require that pictures can be drawn, as ``what`` on the command line needs it.

    Raises:
        OptionsInvalid: They cannot.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionsInvalid(f"{what} needs matplotlib: pip install '.[bench]' in the checkout")


def last_line(said: str) -> str:
    """Return the last line that a program printed, for a message."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "it said nothing"


def new_figure(width: float, height: float) -> Figure:
    """Make an empty picture, without a window."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow, and only some commands draw

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a picture as PNG, whatever the file's name.

    Raises:
        OptionsInvalid: It cannot be written.
    """
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise OptionsInvalid(f"{path}: {error.strerror}; give another file") from None
