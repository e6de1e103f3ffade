"""What callers see in front of a batcher, and the observer of shared answers."""

from __future__ import annotations

from typing import Protocol

from service.batching.request import PendingRequest


class Front(Protocol):
    """Takes requests: a batcher, or what stands in front of it."""

    def offer(self, request: PendingRequest, inline: bool = False) -> None:
        """Take a request in, or raise a ServingError. ``inline``: the calling thread has time to run it."""
        ...

    def submit(self, request: PendingRequest, inline: bool = False) -> None:
        """Take in a request for which a place was reserved, or raise. The place is used up either way."""
        ...

    def cancel(self, request: PendingRequest) -> None:
        """Forget a request whose caller left, or that is settled already and no longer wanted."""
        ...


class Runner(Front, Protocol):
    """Who runs them: a batcher."""

    def offer(self, request: PendingRequest, inline: bool = False, anew: bool = False) -> None:
        """As :meth:`Front.offer`; ``anew``: in the place of another that is just being refused as too late."""
        ...

    def release(self) -> None:
        """Give a reservation back without a request."""
        ...


class SharingObserver(Protocol):
    """Told what is shared. Its methods must be quick and must not raise."""

    def cache_hit(self, seconds: float) -> None:
        """An answer was found; looking for it took ``seconds``."""

    def cache_miss(self, seconds: float, evicted: int, calls: int = 1) -> None:
        """No answer was found. Looking for it and keeping the new one took ``seconds`` and evicted entries.

        Each part of a call that runs in several parts reports its own; ``calls`` is 1 for one of them, 0 for the rest.
        """

    def merged(self) -> None:
        """A request joined an identical one in flight."""

    def cancelled(self, stage: str) -> None:
        """A caller left while an answer was still wanted by others."""

    def rejected(self, reason: str) -> None:
        """A request was refused that needed no place in the queue."""
