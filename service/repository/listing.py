"""What RepositoryIndex shows: what is known of every version, and what lies on disk besides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.repository.lifecycle import UNLOADED, VersionStatus
from service.repository.store import VersionFolder


def index(
    statuses: Iterable[VersionStatus], on_disk: Sequence[VersionFolder] | None, absent: Iterable[VersionStatus]
) -> list[VersionStatus]:
    """Return every version that is known, on disk or asked for, by name and version.

    Args:
        statuses: Those that are known.
        on_disk: Those in the repository; None if it cannot be read.
        absent: Those that a setting names and that are not on disk.
    """
    known = {(status.name, status.version): status for status in statuses}
    if on_disk is not None:
        there = {(folder.name, folder.version) for folder in on_disk}
        known = {place: status for place, status in known.items() if place in there or not status.is_left_out}
        for place in there:
            known.setdefault(place, VersionStatus(*place, "UNAVAILABLE", UNLOADED, "it is not loaded"))
    for status in absent:
        known.setdefault((status.name, status.version), status)
    return [known[place] for place in sorted(known)]
