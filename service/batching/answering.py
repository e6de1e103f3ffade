"""A thread that answers a batch while its instance runs the next (ADR 11)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from service.batching.request import PendingRequest
from service.errors import InternalError

_LOG = logging.getLogger(__name__)

_WORTH_ROWS = 16  # answering fewer takes no longer than waking a thread for it

Unsettled = deque[PendingRequest]
Answer = Callable[[Unsettled], object]


class Answering:
    """Takes the answers of a large batch over if as much waits as was in it, one batch at a time. Thread-safe.

    Contract: whoever was taken over is settled when :meth:`close` has returned, whatever happens. Memory: one batch
    beside those that run.
    """

    def __init__(self, name: str, waiting_rows: Callable[[], int], on_death: Callable[[], None]) -> None:
        """Start the thread.

        Args:
            name: Of the thread.
            waiting_rows: Tells how many rows wait.
            on_death: Called on the thread when answering a batch failed by an error of ours; those of it who were
                left have been refused by then.
        """
        self._waiting_rows = waiting_rows
        self._batches: SimpleQueue[tuple[Answer, Unsettled] | None] = SimpleQueue()
        self._busy = self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, args=(on_death,), name=name, daemon=True)
        self._thread.start()

    def take(self, rows: int, answer: Answer, requests: Sequence[PendingRequest]) -> bool:
        """Take a batch over, if that is worth waking a thread and it is free; tell.

        Args:
            rows: That were in the batch.
            answer: Answers it, and takes whom it is about to settle out of what it is given: the requests.
            requests: Everybody in the batch.
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
        """Take no batch any more, finish, and end the thread; safe more than once, and on the thread itself.

        Args:
            timeout_seconds: How long to wait; what is not over then goes on without anybody waiting.
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
            _LOG.exception("answering a batch failed")
            for request in unsettled:
                request.refuse(InternalError("the batch failed"))
            on_death()
