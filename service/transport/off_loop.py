"""Answers blocking methods off the event loop: a caller who waits for a model to load keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import Any

from service.errors import RepositorySilent
from service.transport.servicers import Method
from service.vital import OnDeath
from service.workers import Workers

_MOST_LOOK_SECONDS = 10.0


class OffLoop:
    """Owns the thread of calls that change what is served, which wait for each other anyway, and that of other calls.

    If one of them dies, the server hears of it: calls would wait for it for ever.
    """

    def __init__(self, on_death: OnDeath, most_look_seconds: float = _MOST_LOOK_SECONDS) -> None:
        """Set up; see :meth:`start`.

        Args:
            on_death: Called if one of the threads dies.
            most_look_seconds: How long a call that only reads the repository is waited for.
        """
        self._most_look_seconds = most_look_seconds
        self._changes = Workers("changes", 1, on_death)
        self._looks = Workers("looks", 1, on_death)

    def start(self) -> None:
        """Start the threads, which inherit how they share the cores, and so do instances that calls load.

        So do not call it from the loop, which takes turns at once.
        """
        self._changes.start()
        self._looks.start()

    async def answer(self, method: Method, request: Any) -> Any:
        """Return what a method answers. Whoever leaves before its turn changes nothing.

        Raises:
            RepositorySilent: The disk hangs, or many wait for it (UNAVAILABLE).
        """
        if not method.changes and not method.blocking:
            return method.handle(request)
        answer: Future[Any] = Future()
        (self._changes if method.changes else self._looks).submit(partial(_settle, answer, method, request))
        if method.changes:
            return await asyncio.wrap_future(answer)
        try:
            async with asyncio.timeout(self._most_look_seconds):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            if answer.done() and not answer.cancelled():
                raise  # the method's own
            limit = f"{self._most_look_seconds:g} seconds"
            raise RepositorySilent(f"the disk of the model repository did not answer within {limit}") from None

    def close(self) -> None:
        """Drop what waits; what is under way is waited for for a moment only."""
        self._changes.close()
        self._looks.close()


def _settle(answer: Future[Any], method: Method, request: Any) -> None:
    if answer.set_running_or_notify_cancel():
        try:
            answer.set_result(method.handle(request))
        except BaseException as error:
            answer.set_exception(error)
