"""A refusal at arrival, and which later arrivals it holds for. Pure: it takes ``now``."""

from __future__ import annotations

from collections.abc import Hashable

from service.batching.request import PendingRequest
from service.errors import DeadlineUnmeetable

_HOLDS = 1 / 100  # of the predicted wait


class Refusal:
    """Holds for a moment: the next arrivals that ask for no less are refused the same way.

    Past capacity most arrivals find what the last one found, and a new prediction is a good part of a refusal's cost.
    """

    __slots__ = (
        "_departures",
        "_facts",
        "_finish",
        "_group",
        "_handicap",
        "_message",
        "_retry_seconds",
        "_rows",
        "_until",
    )

    def __init__(
        self,
        request: PendingRequest,
        finish: float,
        queued: int,
        departures: int,
        now: float,
        least_retry_seconds: float = 0.0,
    ) -> None:
        """Refuse a request, which has a deadline: its answer would come at ``finish``.

        ``departures`` counts the requests that have left the queue so far. For ``least_retry_seconds``, at least, a
        retry is in vain.
        """
        wait_seconds, left_seconds = finish - now, request.deadline - now
        self._message = f"the answer would take {wait_seconds:.3f} s, the deadline leaves {left_seconds:.3f} s"
        self._facts = {"queued": str(queued), "predicted_seconds": f"{wait_seconds:.6f}"}
        self._retry_seconds = max(finish - request.deadline, least_retry_seconds)
        self._group, self._rows, self._handicap = request.group, request.rows, request.handicap
        self._finish = finish
        self._departures = departures
        self._until = now + _HOLDS * wait_seconds

    def is_for(self, rows: int, group: Hashable, handicap: float) -> bool:
        """Return whether a later request asks for no less, its deadline aside; see :class:`PendingRequest`."""
        return rows >= self._rows and handicap >= self._handicap and group == self._group

    def holds(self, deadline: float, departures: int, now: float) -> bool:
        """Return whether such a request is refused for the same reason.

        Args:
            deadline: The later request's deadline.
            departures: How many requests have left the queue by now; the refusal ends with the next one that does.
            now: The present instant.
        """
        return now < self._until and departures == self._departures and now < deadline <= self._finish

    def error(self) -> DeadlineUnmeetable:
        """Return the error for the caller (RESOURCE_EXHAUSTED)."""
        return DeadlineUnmeetable(self._message, retry_after_seconds=self._retry_seconds, facts=self._facts)
