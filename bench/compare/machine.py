"""Where results come from: the machine, without its name, and the tree."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bench.errors import OptionsInvalid
from bench.peers.base import ROOT


def machine() -> dict[str, Any]:
    """Describe the machine: model of the CPU, cores, memory, kernel."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text(errors="replace")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def cpu_model(cpuinfo: str) -> str:
    r"""Return the first model's name.

    >>> cpu_model("processor : 0\nmodel name : A  CPU at 2 GHz\n")
    'A CPU at 2 GHz'
    """
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return "unknown"


def require_checkout(command: str) -> None:
    """Require that the package lies in a checkout, since the tree around it is what is measured, models included.

    Raises:
        OptionsInvalid: It was installed elsewhere.
    """
    if not (ROOT / "models").is_dir():
        raise OptionsInvalid(f"{command} measures only a checkout: pip install --editable '.[cpu,fast,bench]' in it")


def commit() -> str:
    """Return the tree's commit, with a plus where the server differs from it."""
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if _git("status", "--porcelain", "--", "service", "models") else "")


def _git(*arguments: str) -> str:
    try:
        ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
