"""Carries answers from the threads that have them to the event loop that sends them: one wake-up per batch."""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
from collections.abc import Callable
from typing import Any

from service.transport.access import Metadata
from service.transport.call import request_id_of
from service.transport.status import Status

_LOG = logging.getLogger(__name__)


class ReplyQueue:
    """Carries settled calls to the loop: one wake-up, however many are settled meanwhile.

    Attributes:
        unsent: How many calls, and requests of streams, are not completely answered yet; counted on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.unsent = 0
        self._loop = loop
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()
        self._lock = threading.Lock()
        self._scheduled = False

    def count_until_sent(self, context: Any) -> None:
        """Count a call as unsent until gRPC has handed its whole answer to the network, or has ended it."""
        self.unsent += 1
        context.add_done_callback(self._sent)

    def _sent(self, _context: object) -> None:
        self.unsent -= 1

    def put(self, future: asyncio.Future[bytes | Status], outcome: bytes | Status) -> None:
        """Settle a future on its loop, from any thread."""
        self.call(lambda: None if future.done() else future.set_result(outcome))

    def call(self, settle: Callable[[], None]) -> None:
        """Run a function on the loop's thread soon, from any thread."""
        with self._lock:
            self._waiting.append(settle)
            if self._scheduled:
                return
            self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self.flush)
        except RuntimeError:
            _LOG.warning("an answer came after the loop had ended")

    def flush(self) -> None:
        """Settle what waits, on the loop's thread: when woken, and now and then, since waking it takes memory."""
        self._scheduled = False  # before looking: what comes from now on wakes the loop again
        for _ in range(len(self._waiting)):
            try:
                self._waiting.popleft()()
            except Exception:  # keeps no other answer
                _LOG.exception("an answer could not be passed on")


class LoopResponder:
    """Answers one call by its future."""

    transport = "grpcio"
    __slots__ = ("_metadata", "_replies", "future")

    def __init__(self, replies: ReplyQueue, future: asyncio.Future[bytes | Status], metadata: Metadata) -> None:
        self.future = future
        self._replies = replies
        self._metadata = metadata

    @property
    def request_id(self) -> str:
        """The caller's ``x-request-id``, or one of ours."""
        return request_id_of(self._metadata)

    def respond(self, payload: bytes) -> None:
        """Send the answer."""
        self._replies.put(self.future, payload)

    def fail(self, status: Status) -> None:
        """Send the failure."""
        self._replies.put(self.future, status)
