"""Why a caller left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from service.errors import DeadlineExceeded, RequestCancelled

_ROUNDED = 1 / 100  # gRPC's clients send three digits of the time that is left, rounded up
_ON_THE_WAY_SECONDS = 2e-3  # what the deadline is late by here, since it is counted from the intake


def departure(arrival: float, deadline: float, now: float) -> DeadlineExceeded | RequestCancelled:
    """Return with what a call ends whose caller left.

    A client hangs up when its deadline passes, which by its own clock is a moment before it does here, and tells its
    caller DEADLINE_EXCEEDED: nobody changed their mind.

    Args:
        arrival: Instant of the intake.
        deadline: The call's, infinite for none.
        now: The instant at which the caller left.
    """
    if deadline < math.inf and deadline - now <= _ON_THE_WAY_SECONDS + _ROUNDED * (deadline - arrival):
        return DeadlineExceeded("the deadline passed before there was an answer")
    return RequestCancelled("the caller left")


class Timed(Protocol):
    """An RPC of grpcio."""

    def time_remaining(self) -> float | None:
        """Seconds to its deadline, 0 at least; None without one."""
        ...


def leaving(rpc: Timed) -> Callable[[], DeadlineExceeded | RequestCancelled]:
    """Note how long an RPC may take that begins; return what tells how it ends if its caller leaves now."""
    granted = rpc.time_remaining()

    def error() -> DeadlineExceeded | RequestCancelled:
        if granted is None:
            return RequestCancelled("the caller left")
        return departure(0.0, granted, granted - (rpc.time_remaining() or 0.0))

    return error
