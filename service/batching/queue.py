"""The bounded queue of one model version: a plain object, driven under the batcher's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from service.batching.request import PendingRequest


class RequestQueue:
    """Requests in order of arrival, kept apart by group.

    Worst case: it holds what was appended, so whoever appends enforces the bound (the batcher
    counts its reservations against ``max_queued_requests``). ``append`` is O(1); ``remove`` is
    O(length of the group); ``take`` is O(length of the group).
    """

    def __init__(self) -> None:
        self._groups: dict[Hashable, deque[PendingRequest]] = {}
        self._count = 0
        self._rows = 0

    def __len__(self) -> int:
        """Number of requests that wait."""
        return self._count

    @property
    def rows(self) -> int:
        """Number of rows that wait."""
        return self._rows

    def append(self, request: PendingRequest) -> None:
        """Put a request behind the others of its group."""
        self._groups.setdefault(request.group, deque()).append(request)
        self._count += 1
        self._rows += request.rows

    def remove(self, request: PendingRequest) -> bool:
        """Take one request out; tell whether it was still waiting."""
        group = self._groups.get(request.group, ())
        if request not in group:
            return False
        self._forget(request.group, [request])
        return True

    def take(self, group: Hashable, requests: Iterable[PendingRequest]) -> None:
        """Take out requests of one group that are known to wait."""
        self._forget(group, requests)

    def drain(self) -> list[PendingRequest]:
        """Take everything out, oldest first."""
        everything = sorted(self, key=lambda request: request.arrival)
        self._groups.clear()
        self._count = self._rows = 0
        return everything

    def oldest_group(self) -> Hashable | None:
        """Return the group whose head has waited longest, or None when nothing waits.

        Serving groups in this order bounds how long any one can be passed over.
        """
        heads = ((group[0].arrival, key) for key, group in self._groups.items())
        return min(heads, key=lambda head: head[0], default=(0.0, None))[1]

    def waiting(self, group: Hashable) -> list[PendingRequest]:
        """Return the requests of a group in order of arrival; a copy."""
        return list(self._groups[group])

    def __iter__(self) -> Iterator[PendingRequest]:
        """Iterate over all requests, group by group."""
        for group in self._groups.values():
            yield from group

    def _forget(self, key: Hashable, requests: Iterable[PendingRequest]) -> None:
        group = self._groups[key]
        for request in requests:
            if group[0] is request:
                group.popleft()
            else:
                group.remove(request)
            self._count -= 1
            self._rows -= request.rows
        if not group:
            del self._groups[key]
