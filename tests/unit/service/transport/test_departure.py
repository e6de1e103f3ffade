"""Who leaves when the deadline comes has not changed their mind."""

from __future__ import annotations

import math

import pytest

from service.transport.departure import departure, leaving


@pytest.mark.parametrize(
    ("deadline", "left_at", "status"),
    [
        (math.inf, 1e9, "CANCELLED"),
        (10.5, 10.2, "CANCELLED"),
        (10.5, 10.45, "CANCELLED"),
        (10.5, 10.499, "DEADLINE_EXCEEDED"),
        (10.5, 10.5, "DEADLINE_EXCEEDED"),
        (10.5, 11.0, "DEADLINE_EXCEEDED"),
        (11.12, 11.111, "DEADLINE_EXCEEDED"),  # 1.111 s, as gRPC sends it
        (11.12, 11.09, "DEADLINE_EXCEEDED"),  # the call waited to be read
        (11.12, 11.08, "CANCELLED"),
        (10.05, 10.045, "DEADLINE_EXCEEDED"),
        (10.05, 10.04, "CANCELLED"),
        (9.0, 10.0, "DEADLINE_EXCEEDED"),  # it had passed when the call came
    ],
)
def test_the_deadline_tells_why_a_caller_left(deadline: float, left_at: float, status: str) -> None:
    assert departure(10.0, deadline, left_at).status == status


@pytest.mark.parametrize(
    ("remaining", "status"),
    [
        ((None, None), "CANCELLED"),
        ((2.0, 1.0), "CANCELLED"),
        ((2.0, 0.0), "DEADLINE_EXCEEDED"),
        ((2.0, 0.01), "DEADLINE_EXCEEDED"),
    ],
)
def test_of_an_rpc_grpc_tells_what_is_left(remaining: tuple[float | None, float | None], status: str) -> None:
    class Rpc:
        def __init__(self) -> None:
            self.remaining = list(remaining)

        def time_remaining(self) -> float | None:
            return self.remaining.pop(0)

    assert leaving(Rpc())().status == status
