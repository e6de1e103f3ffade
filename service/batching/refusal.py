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
        "_facts",
        "_finish",
        "_group",
        "_handicap",
        "_message",
        "_retry_seconds",
        "_revision",
        "_rows",
        "_until",
    )

    def __init__(self, request: PendingRequest, finish: float, queued: int, revision: int, now: float) -> None:
        """Refuse a request.

        Args:
            request: It; has a deadline.
            finish: The instant at which it would be answered.
            queued: How many requests wait.
            revision: Of the queue.
            now: The present instant.
        """
        wait_seconds, left_seconds = finish - now, request.deadline - now
        self._message = f"the answer would take {wait_seconds:.3f} s, the deadline leaves {left_seconds:.3f} s"
        self._facts = {"queued": str(queued), "predicted_seconds": f"{wait_seconds:.6f}"}
        self._retry_seconds = finish - request.deadline
        self._group, self._rows, self._handicap = request.group, request.rows, request.handicap
        self._finish = finish
        self._revision = revision
        self._until = now + _HOLDS * wait_seconds

    def is_for(self, rows: int, group: Hashable, handicap: float) -> bool:
        """Tell whether a later request asks for no less, but for its deadline; see :class:`PendingRequest`."""
        return rows >= self._rows and handicap >= self._handicap and group == self._group

    def holds(self, deadline: float, revision: int, now: float) -> bool:
        """Tell whether such a request is refused for the same reason; nobody has left the queue or overtaken since.

        Args:
            deadline: Of that request.
            revision: Of the queue, by now.
            now: The present instant.
        """
        return now < self._until and revision == self._revision and now < deadline <= self._finish

    def error(self) -> DeadlineUnmeetable:
        """Return what its caller is told (RESOURCE_EXHAUSTED)."""
        return DeadlineUnmeetable(self._message, retry_after_seconds=self._retry_seconds, facts=self._facts)
