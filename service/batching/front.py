"""What stands before a batcher, as callers see it, and who is told what it does."""

from __future__ import annotations

from typing import Protocol

from service.batching.request import PendingRequest


class Front(Protocol):
    """Who takes requests: a batcher, or what stands in front of it."""

    def offer(self, request: PendingRequest, inline: bool = False) -> None:
        """Take a request in, or raise a ServingError; ``inline``: the caller's thread has time to run it."""
        ...

    def submit(self, request: PendingRequest, inline: bool = False) -> None:
        """Take in a request for which the batcher reserved a place, or raise; the place is used up either way."""
        ...

    def cancel(self, request: PendingRequest) -> None:
        """Forget a request whose caller left, or that is settled already and wanted no more."""
        ...

    def release(self) -> None:
        """Give a reservation back without a request."""
        ...


class Runner(Front, Protocol):
    """Who runs them: a batcher."""

    def offer(self, request: PendingRequest, inline: bool = False, anew: bool = False) -> None:
        """As :meth:`Front.offer`; ``anew``: in the place of another that is just being refused as too late."""
        ...


class SharingObserver(Protocol):
    """Who is told; must be quick and must not raise."""

    def cache_hit(self, seconds: float) -> None:
        """An answer was found, so long after it was looked for."""

    def cache_miss(self, seconds: float, evicted: int, calls: int = 1) -> None:
        """None was; looking for it and keeping the answer took so long, and so many had to leave.

        Of a call that runs in several parts, each tells its own, and one of them counts the call.
        """

    def merged(self) -> None:
        """A request joined an identical one in flight."""

    def cancelled(self, stage: str) -> None:
        """A caller left while an answer was still wanted by others."""

    def rejected(self, reason: str) -> None:
        """A request was refused that needed no place in the queue."""
