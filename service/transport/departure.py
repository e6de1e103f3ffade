"""Finds out why a caller left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc

from service.errors import DeadlineExceeded, RequestCancelled

_ROUNDED = 1 / 100  # gRPC's clients send three digits of the remaining time, rounded up
_ON_THE_WAY_SECONDS = 2e-3  # how late the deadline is here, since it is counted from the intake
_WAIT_SECONDS = 0.02  # how much later on a busy machine, where a call waits to be read
_MOST_WAIT = 1 / 10  # of the time granted: else most who leave soon would count as late


def departure(arrival: float, deadline: float, now: float) -> DeadlineExceeded | RequestCancelled:
    """Return the error with which a call ends whose caller left.

    A client hangs up when its deadline passes, a moment before it passes here, and reports DEADLINE_EXCEEDED to its
    own caller. Such a call was not cancelled.
    """
    granted = deadline - arrival
    early = _ON_THE_WAY_SECONDS + _ROUNDED * granted + min(_WAIT_SECONDS, _MOST_WAIT * granted)
    if deadline < math.inf and deadline - now <= early:
        return DeadlineExceeded("the deadline passed before there was an answer")
    return RequestCancelled("the caller left")


def leaving(rpc: grpc.aio.ServicerContext[Any, Any]) -> Callable[[], DeadlineExceeded | RequestCancelled]:
    """Note how long a beginning RPC may take; return a function that gives its error if its caller leaves now."""
    granted = rpc.time_remaining()

    def error() -> DeadlineExceeded | RequestCancelled:
        if granted is None:
            return RequestCancelled("the caller left")
        return departure(0.0, granted, granted - (rpc.time_remaining() or 0.0))

    return error
