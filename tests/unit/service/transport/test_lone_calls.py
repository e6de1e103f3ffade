"""When a call may be run by the thread that took it in."""

from __future__ import annotations

import pytest

from service.transport.lone_calls import LoneCalls

WAITED = 0.001


def after(trips: int) -> LoneCalls:
    """Return one that has seen so many trips of one call, waited for, with nothing else in flight."""
    lone = LoneCalls()
    for _ in range(trips):
        lone.note(1, 0, WAITED)
    return lone


def test_after_eight_in_a_row() -> None:
    lone = LoneCalls()
    assert [lone.note(1, 0, WAITED) for _ in range(10)] == [False] * 8 + [True] * 2


@pytest.mark.parametrize(
    ("events", "in_flight", "waited"),
    [
        pytest.param(2, 0, WAITED, id="two at once"),
        pytest.param(1, 1, WAITED, id="another in flight"),
        pytest.param(1, 0, 0.000005, id="it had waited, perhaps for a run"),
    ],
)
def test_one_that_is_not_alone_begins_the_row_anew(events: int, in_flight: int, waited: float) -> None:
    lone = after(20)
    assert not lone.note(events, in_flight, waited)
    assert [lone.note(1, 0, WAITED) for _ in range(9)] == [False] * 8 + [True]


def test_a_trip_without_events_means_nothing() -> None:
    lone = after(20)
    assert not lone.note(0, 0, 0.5)
    assert lone.note(1, 0, WAITED)
