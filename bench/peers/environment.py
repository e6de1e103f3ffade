"""A peer's virtual environment: made once, with pip, from the package index."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cached_property
from importlib import metadata
from pathlib import Path

from bench.errors import PeerFailed


class Environment:
    """A virtual environment without pip, so that its size is that of its requirements."""

    def __init__(self, folder: Path) -> None:
        """Name its folder; :meth:`make` makes it."""
        self.folder = folder

    @classmethod
    def own(cls) -> Environment:
        """Return the one that this program runs in."""
        return cls(Path(sys.prefix))

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        """Where its packages are."""
        return next((self.folder / "lib").glob("python3.*")) / "site-packages"

    def make(self, requirements: Iterable[tuple[str, ...]]) -> None:
        """Make the environment, unless it was made for the same requirements.

        Raises:
            PeerFailed: Says why.
        """
        wanted = json.dumps([*requirements])
        stamp = self.folder / "requirements.json"
        if stamp.exists() and stamp.read_text() == wanted:
            return
        self._run("-m", "venv", "--without-pip", str(self.folder))
        for arguments in json.loads(wanted):
            install = ("-m", "pip", "--python", str(self.python), "install", "--quiet", "--disable-pip-version-check")
            self._run(*install, *arguments)
        stamp.write_text(wanted)

    def need(self, name: str) -> None:
        """Install another distribution, unless it is there.

        Raises:
            PeerFailed: Says why.
        """
        if not self.versions([name]):
            self._run("-m", "pip", "--python", str(self.python), "install", "--quiet", name)

    @cached_property
    def installed_bytes(self) -> int:
        """The size of its packages on the disk, without compiled files."""
        found = 0
        for folder, _, names in os.walk(self.site):
            if not folder.endswith("__pycache__"):
                found += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
        return found

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """Return the versions of those distributions that are installed."""
        found = {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=[str(self.site)])}
        return {name: found[name] for name in names if name in found}

    @staticmethod
    def _run(*arguments: str) -> None:
        ran = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        if ran.returncode:
            lines = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")] or ran.stderr.splitlines()
            raise PeerFailed(lines[0].strip() if lines else f"pip ended with {ran.returncode}")


def pinned_onnxruntime() -> str:
    """Return a requirement for the ONNX Runtime of this environment, or for any if this one has none."""
    try:
        return f"onnxruntime=={metadata.version('onnxruntime')}"
    except metadata.PackageNotFoundError:
        return "onnxruntime"
