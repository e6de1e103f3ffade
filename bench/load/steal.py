"""How much of the cores' time the hypervisor gave to other guests while this one wanted it: steal time, proc_stat(5).

On a virtual machine whose host is busy, each answer takes longer by what was stolen meanwhile. Nothing else shows it:
to server and generator it looks like a slower processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MUCH_STEAL = 0.02
_STAT = Path("/proc/stat")
_STEAL = 7  # place among the fields of a core
_COUNTED = 8  # guest time, which follows, is part of the first field

Ticks = Mapping[str, tuple[int, int]]
"""Time stolen and time passed, in clock ticks since the machine started, of each core by name."""


def read_ticks() -> Ticks:
    """Read what was stolen until now; nothing where the system does not tell."""
    try:
        return parse_ticks(_STAT.read_text())
    except OSError:
        return {}


def parse_ticks(text: str) -> Ticks:
    """Read the cores' lines of /proc/stat."""
    ticks = {}
    for line in text.splitlines():
        name, *fields = line.split() or [""]
        if name.startswith("cpu") and name != "cpu" and len(fields) >= _COUNTED:
            counted = [int(field) for field in fields[:_COUNTED]]
            ticks[name] = counted[_STEAL], sum(counted)
    return ticks


def worst_share(before: Ticks, after: Ticks) -> float | None:
    """Return what the core that lost most lost, as a share of the time between; None where no core tells."""
    shares = []
    for core, (stolen, passed) in after.items():
        if core in before and passed > before[core][1]:
            shares.append((stolen - before[core][0]) / (passed - before[core][1]))
    return max(shares, default=None)


def warning(steal: float | None) -> str | None:
    """Say why a run is worth little, if the hypervisor took more than :data:`MUCH_STEAL` of a core."""
    if steal is None or steal <= MUCH_STEAL:
        return None
    return (
        f"the hypervisor gave {steal:.0%} of a core's time to other guests (steal time), expected at most "
        f"{MUCH_STEAL:.0%}: the figures are of a machine without its cores; run again in a quieter hour"
    )
