"""A refusal at arrival, and for whom else it holds. Pure: it takes ``now``."""

from __future__ import annotations

from collections.abc import Hashable

from service.batching.request import PendingRequest
from service.errors import DeadlineUnmeetable

_HOLDS = 1 / 100  # of the predicted wait


class Refusal:
    """Holds for a moment: who comes next and asks for no less is told the same.

    Past capacity most arrivals find what the last one found; predicting anew is a good part of what a refusal costs.
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
        """Refuse a request.

        Args:
            request: It; has a deadline.
            finish: The instant at which it would be answered.
            queued: How many requests wait.
            departures: How many have left the queue so far.
            now: The present instant.
            least_retry_seconds: How long a retry is in vain at least.
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
        """Tell whether a later request asks for no less, but for its deadline; see :class:`PendingRequest`."""
        return rows >= self._rows and handicap >= self._handicap and group == self._group

    def holds(self, deadline: float, departures: int, now: float) -> bool:
        """Tell whether such a request is refused for the same reason; nobody has left the queue since.

        Args:
            deadline: Of that request.
            departures: How many have left the queue by now.
            now: The present instant.
        """
        return now < self._until and departures == self._departures and now < deadline <= self._finish

    def error(self) -> DeadlineUnmeetable:
        """Return what its caller is told (RESOURCE_EXHAUSTED)."""
        return DeadlineUnmeetable(self._message, retry_after_seconds=self._retry_seconds, facts=self._facts)
