"""Reads Linux's texts about processes in /proc, and tells which processes belong together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Stat(NamedTuple):
    """A line of /proc/PID/stat.

    Attributes:
        pid: Of the process.
        parent: Of its parent.
        session: Number of its session.
        ticks: CPU time used, user and system, its threads included.
        started: Instant of its start in ticks since boot; together with the pid it is unique.
    """

    pid: int
    parent: int
    session: int
    ticks: int
    started: int


def parse_stat(text: str) -> Stat:
    """Read /proc/PID/stat, whose second field may hold blanks and brackets."""
    head, _, rest = text.rpartition(")")
    fields = rest.split()  # from field 3 on, as proc(5) counts
    return Stat(
        pid=int(head.split(maxsplit=1)[0]),
        parent=int(fields[1]),
        session=int(fields[3]),
        ticks=int(fields[11]) + int(fields[12]),
        started=int(fields[19]),
    )


def parse_kilobytes(text: str, name: str) -> int:
    """Return in bytes a line such as ``VmRSS:  1234 kB`` of /proc/PID/status or smaps_rollup; 0 where it is missing."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return 0


def family(root: int, stats: Iterable[Stat], tagged: Iterable[int] = ()) -> set[int]:
    """Return the pids that belong to a server.

    Args:
        root: The process that was started, the leader of a session of its own.
        stats: Of all processes on the machine.
        tagged: Those recognised by another sign, such as a variable in their environment, after their parent ended.
    """
    found = {root, *tagged}
    rest = [stat for stat in stats if stat.pid not in found]
    while True:
        more = {stat.pid for stat in rest if stat.parent in found or stat.session == root}
        if not more:
            return found
        found |= more
        rest = [stat for stat in rest if stat.pid not in more]
