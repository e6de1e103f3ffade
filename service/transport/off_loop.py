"""Answers blocking methods off the event loop: a caller who waits for a model to load keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.scheduling import wait_for_turns
from service.transport.servicers import Method


class OffLoop:
    """Owns the thread of calls that change what is served, which wait for each other anyway."""

    def __init__(self) -> None:
        """Have no thread yet."""
        # Instances inherit how they share the cores from who loads them: not from the loop, which takes turns at once.
        self._changes = ThreadPoolExecutor(1, "changes", initializer=wait_for_turns)

    async def answer(self, method: Method, request: Any) -> Any:
        """Return what a method answers. Whoever leaves before its turn changes nothing."""
        if method.changes:
            return await asyncio.get_running_loop().run_in_executor(self._changes, method.handle, request)
        return await asyncio.to_thread(method.handle, request) if method.blocking else method.handle(request)

    def close(self) -> None:
        """Drop what waits; what is under way is not waited for."""
        self._changes.shutdown(wait=False, cancel_futures=True)
