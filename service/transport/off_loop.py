"""Answers blocking methods off the event loop: a caller who waits for a model to load keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial
from typing import Any

from service.transport.servicers import Method
from service.vital import OnDeath
from service.workers import Workers


class OffLoop:
    """Owns the thread of calls that change what is served, which wait for each other anyway, and that of other calls.

    If one of them dies, the server hears of it: calls would wait for it for ever.
    """

    def __init__(self, on_death: OnDeath) -> None:
        """Set up; see :meth:`start`."""
        self._changes = Workers("changes", 1, on_death)
        self._looks = Workers("looks", 1, on_death)

    def start(self) -> None:
        """Start the threads, which inherit how they share the cores, and so do instances that calls load.

        So do not call it from the loop, which takes turns at once.
        """
        self._changes.start()
        self._looks.start()

    async def answer(self, method: Method, request: Any) -> Any:
        """Return what a method answers. Whoever leaves before its turn changes nothing."""
        if not method.changes and not method.blocking:
            return method.handle(request)
        answer: Future[Any] = Future()
        (self._changes if method.changes else self._looks).submit(partial(_settle, answer, method, request))
        return await asyncio.wrap_future(answer)

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
