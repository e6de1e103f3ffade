"""A reply that keeps the answer on its way to the caller, and the facts of an answer that was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from service.batching.request import BatchFacts, PendingRequest, Reply
from service.errors import ServingError

CACHED = "cached"  # the release reason of what never ran
Keep = Callable[[Sequence[np.ndarray]], None]


def cached_facts(rows: int, now: float) -> BatchFacts:
    """Return the facts of an answer that took no run."""
    return BatchFacts(rows, rows, 0.0, -1, CACHED, now, 0.0, 0.0)


class Keeping:
    """Passes a request's answer on and keeps it; failures are not kept."""

    __slots__ = ("_keep", "reply")

    def __init__(self, keep: Keep, reply: Reply) -> None:
        self._keep = keep
        self.reply = reply
        """The caller's reply."""

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        """Keep the answer first, so that a caller who asks again at once finds it."""
        try:
            self._keep(outputs)
        finally:
            self.reply.answer(outputs, request, facts)

    def refuse(self, error: ServingError) -> None:
        """Pass the failure on."""
        self.reply.refuse(error)
