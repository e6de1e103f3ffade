"""Threads without which the server must not count as ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_LOG = logging.getLogger(__name__)

OnDeath = Callable[[Exception], None]


def vital_thread(name: str, work: Callable[[], None], on_death: OnDeath) -> threading.Thread:
    """Return a daemon thread, not started yet, that tells its owner if its work ends by an exception.

    Returning is no death. ``on_death`` is called on the thread.
    """
    error = RuntimeError(f"the thread {name} died")  # made now: when it dies, there may be no memory for it

    def watched() -> None:
        try:
            work()
        except BaseException:
            on_death(error)  # first: without memory the log may fail as well
            _LOG.exception("the thread %s died", name)

    return threading.Thread(target=watched, name=name, daemon=True)
