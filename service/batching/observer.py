"""The observer of a batcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from service.batching.request import BatchFacts, PendingRequest


class Observer(Protocol):
    """Told what happens. Its methods must be quick and must not raise; the lock is not held."""

    def batch(self, requests: Sequence[PendingRequest], outputs: Sequence[np.ndarray], facts: BatchFacts) -> None:
        """A batch ran. ``outputs`` hold its rows in the order of the requests, then padding; none is answered yet."""

    def replied(self, requests: Sequence[PendingRequest], facts: BatchFacts, seconds: float) -> None:
        """All requests of a batch were answered, ``seconds`` after the backend had returned."""

    def rejected(self, reason: str, count: int = 1) -> None:
        """``count`` requests were refused; ``reason`` is the error's reason in lower case."""

    def cancelled(self, stage: str) -> None:
        """A caller left while its request was ``"queued"`` or ``"running"``."""
