"""The observer of a batcher, and the shield between the two."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from service.batching.request import BatchFacts, PendingRequest

_LOG = logging.getLogger(__name__)


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


class ShieldedObserver:
    """Passes everything on and logs what the observer raises: counting must never harm a caller."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def batch(self, requests: Sequence[PendingRequest], outputs: Sequence[np.ndarray], facts: BatchFacts) -> None:
        """A batch ran."""
        self._tell(lambda: self._observer.batch(requests, outputs, facts))

    def replied(self, requests: Sequence[PendingRequest], facts: BatchFacts, seconds: float) -> None:
        """A batch was answered."""
        self._tell(lambda: self._observer.replied(requests, facts, seconds))

    def rejected(self, reason: str, count: int = 1) -> None:
        """Requests were refused."""
        self._tell(lambda: self._observer.rejected(reason, count))

    def cancelled(self, stage: str) -> None:
        """A caller left."""
        self._tell(lambda: self._observer.cancelled(stage))

    def _tell(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception:
            _LOG.exception("the observer failed")
