"""The bounded queue of one model version. A plain object; call it under the batcher's lock."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Hashable, Iterable, Iterator

from service.batching.request import PendingRequest


class RequestQueue:
    """Requests in order of their turns, kept apart by group.

    It does not limit itself: the batcher enforces the bound, counting its reservations against
    ``max_queued_requests``. Worst case: ``append`` is O(1) at the end and O(length of the group) where
    it overtakes; ``remove`` and ``take`` are O(length of the group).
    """

    def __init__(self) -> None:
        self._groups: dict[Hashable, deque[PendingRequest]] = {}
        self._count = 0
        self.rows = 0
        """Number of waiting rows."""
        self._patient_rows = 0
        self._latest_turn = -math.inf
        self.departures = 0
        """How many requests have been taken or removed."""

    def __len__(self) -> int:
        """Number of waiting requests."""
        return self._count

    def rows_before(self, turn: float) -> int:
        """Return how many rows have their turn at ``turn`` or before."""
        if turn >= self._latest_turn:
            return self.rows
        return sum(request.rows for request in self if request.turn <= turn)

    def patient_rows_before(self, turn: float) -> int:
        """Return how many rows without a deadline have their turn at ``turn`` or before."""
        if turn >= self._latest_turn:
            return self._patient_rows
        return sum(request.rows for request in self if request.deadline == math.inf and request.turn <= turn)

    def first_deadline(self, group: Hashable) -> float:
        """Return the deadline of the first in line; infinite unless all waiting requests are of this group."""
        waiting = self._groups.get(group)
        return waiting[0].deadline if waiting and len(self._groups) == 1 else math.inf

    def append(self, request: PendingRequest) -> None:
        """Put a request into its group, behind all whose turn is no later than its own."""
        group = self._groups.setdefault(request.group, deque())
        if not group or group[-1].turn <= request.turn:
            group.append(request)
        else:
            insort(group, request, key=_turn)
        self._latest_turn = max(self._latest_turn, request.turn)
        self._account(request, 1)

    def remove(self, request: PendingRequest) -> bool:
        """Take one request out; return whether it was still waiting."""
        group = self._groups.get(request.group, ())
        if request not in group:
            return False
        self.take(request.group, [request])
        return True

    def take(self, group: Hashable, requests: Iterable[PendingRequest]) -> None:
        """Take out requests of one group that are known to wait."""
        waiting = self._groups[group]
        for request in requests:
            if waiting[0] is request:
                waiting.popleft()
            else:
                waiting.remove(request)
            self._account(request, -1)
            self.departures += 1
        if not waiting:
            del self._groups[group]

    def drain(self) -> list[PendingRequest]:
        """Take everything out, oldest first."""
        everything = sorted(self, key=lambda request: request.arrival)
        self._groups.clear()
        self._count = self.rows = self._patient_rows = 0
        return everything

    def groups_by_age(self) -> list[Hashable]:
        """Return the groups in order of the turns of their first requests.

        Serving groups in this order bounds how long any of them can be passed over.
        """
        return sorted(self._groups, key=lambda group: self._groups[group][0].turn)

    def waiting(self, group: Hashable) -> list[PendingRequest]:
        """Return the requests of a group in order of their turns; a copy."""
        return list(self._groups[group])

    def __iter__(self) -> Iterator[PendingRequest]:
        """Iterate over all requests, group by group."""
        for group in self._groups.values():
            yield from group

    def _account(self, request: PendingRequest, sign: int) -> None:
        self._count += sign
        self.rows += sign * request.rows
        if request.deadline == math.inf:
            self._patient_rows += sign * request.rows


def _turn(request: PendingRequest) -> float:
    return request.turn
