"""The processor's name, and how many cores this process may use: its affinity, and a container's share of time."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def processor_name() -> str:
    """Return the name that the processor gives itself, its architecture where it gives none."""
    try:
        lines = (_PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def usable_cores(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return how many threads may compute at once without being held back; at least 1.

    ``docker run --cpus 2`` and Kubernetes' ``limits.cpu: 2`` leave every core of the machine visible, but stop all
    threads of the container for the rest of each period in which they have used twice its length. So more threads than
    that are worse than useless. A limit is rounded down: what is left is for the threads that feed the computing ones.

    Args:
        proc: procfs; where it is missing no limit is known.
        cgroups: Where control groups are mounted, version 2 or 1 (cgroups(7), cpu.max and cpu.cfs_quota_us).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(int(limit) for limit in _limits(proc, cgroups))]))


def _limits(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield how many cores' worth of time the process's control group, and each above it, may use in a period."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:  # version 2
            mount, read = cgroups, _max
        elif "cpu" in controllers.split(","):
            mount, read = cgroups / "cpu", _quota  # where it is mounted with cpuacct, a link to that
        else:
            continue
        # In a container without a namespace of its own the path is the host's, and only the mount exists.
        place = Path(path.lstrip("/"))
        for group in (place, *place.parents):
            try:
                yield read(mount / group)
            except (OSError, ValueError, ZeroDivisionError):
                continue  # not there, or no limit


def _max(group: Path) -> float:
    """Read ``cpu.max``: microseconds of a period, or ``max``, and the period."""
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _quota(group: Path) -> float:
    """Read the files of version 1; -1 is no limit."""
    quota = int((group / "cpu.cfs_quota_us").read_text())
    if quota < 0:
        raise ValueError
    return quota / int((group / "cpu.cfs_period_us").read_text())
