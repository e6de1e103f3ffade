"""What RepositoryIndex shows: what is known of every version, and what lies on disk besides. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from service.repository.lifecycle import UNLOADED, UNREADABLE, VersionStatus
from service.repository.store import Contents


def index(
    statuses: Iterable[VersionStatus], contents: Contents | None, absent: Iterable[VersionStatus]
) -> list[VersionStatus]:
    """Return every version that is known, on disk, or asked for by a setting although absent, by name and version."""
    known = {(status.name, status.version): status for status in statuses}
    if contents is not None:
        there = {(folder.name, folder.version) for folder in contents.folders}
        known = {
            place: status
            for place, status in known.items()
            if place in there or not status.is_left_out or status.name in contents.unreadable
        }
        for place in there:
            known.setdefault(place, VersionStatus(*place, "UNAVAILABLE", UNLOADED, "it is not loaded"))
        for name in set(contents.unreadable).difference(status.name for status in known.values()):
            known[name, 0] = VersionStatus(name, 0, "UNAVAILABLE", UNLOADED, UNREADABLE)
    for status in absent:
        known.setdefault((status.name, status.version), status)
    return [known[place] for place in sorted(known)]
