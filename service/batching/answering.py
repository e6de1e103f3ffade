"""A thread that answers a batch while its instance runs the next (ADR 11)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from service.batching.request import PendingRequest
from service.errors import InternalError
from service.shortage import start_thread

_LOG = logging.getLogger(__name__)

_WORTH_ROWS = 16  # answering fewer takes no longer than waking a thread for it

Unsettled = deque[PendingRequest]
Answer = Callable[[Unsettled], object]


class Answering:
    """Takes over the answers of a large batch if at least as many rows wait. One batch at a time. Thread-safe.

    Contract: every request taken over is settled when :meth:`close` has returned, whatever happens. Memory: one batch
    besides those that run.
    """

    def __init__(self, name: str, waiting_rows: Callable[[], int], on_death: Callable[[], None]) -> None:
        """Start the thread.

        Args:
            name: The thread's name.
            waiting_rows: Returns how many rows wait.
            on_death: Called on the thread if answering a batch failed through an error of ours. Its unanswered
                requests have been refused by then.
        """
        self._waiting_rows = waiting_rows
        self._batches: SimpleQueue[tuple[Answer, Unsettled] | None] = SimpleQueue()
        self._busy = self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, args=(on_death,), name=name, daemon=True)
        start_thread(self._thread)

    def take(self, rows: int, answer: Answer, requests: Sequence[PendingRequest]) -> bool:
        """Take a batch over if that is worth waking the thread and it is free; return whether it was taken.

        Args:
            rows: Rows in the batch.
            answer: Answers the batch. It is given the requests and removes each one before settling it.
            requests: The batch's requests.
        """
        if rows < _WORTH_ROWS or self._waiting_rows() < rows:
            return False
        with self._lock:
            if self._busy or self._closed:
                return False
            self._busy = True
            self._batches.put((answer, deque(requests)))
        return True

    def close(self, timeout_seconds: float | None = None) -> None:
        """Take no more batches, finish, and end the thread. Safe to call again, and on the thread itself.

        Args:
            timeout_seconds: How long to wait for that; after it, unfinished work goes on by itself.
        """
        with self._lock:
            self._closed = True
            self._batches.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    def _serve(self, on_death: Callable[[], None]) -> None:
        while (batch := self._batches.get()) is not None:
            self._finish(*batch, on_death)
            del batch  # nothing of it is kept until the next one comes
            self._busy = False

    def _finish(self, answer: Answer, unsettled: Unsettled, on_death: Callable[[], None]) -> None:
        try:
            answer(unsettled)
        except BaseException:
            try:
                for request in unsettled:
                    request.refuse(InternalError("the batch failed"))
            finally:
                on_death()
            _LOG.exception("answering a batch failed")  # last: without memory the log may fail as well
