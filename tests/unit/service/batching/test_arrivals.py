"""The rate of arrivals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.arrivals import ArrivalRate


def test_nothing_is_said_before_a_quarter_of_a_period_is_over() -> None:
    rate = ArrivalRate(1.0)
    assert rate.per_second(5.0) == 0
    rate.observe(3, 5.0)
    assert rate.per_second(5.2) == 0
    assert rate.per_second(5.5) == 6


def test_it_is_over_the_last_period_and_the_present_one() -> None:
    rate = ArrivalRate(1.0)
    for now in (5.0, 5.5, 6.1):
        rate.observe(3, now)
    assert rate.per_second(6.5) == pytest.approx(9 / 1.5)


def test_a_pause_is_forgotten() -> None:
    rate = ArrivalRate(1.0)
    for now in (5.0, 6.1, 20.0, 20.5):
        rate.observe(3, now)
    assert rate.per_second(20.5) == pytest.approx(6 / 0.5)
    rate.observe(3, 21.1)
    assert rate.per_second(21.1) == pytest.approx(9 / 1.1)


def test_so_is_what_came_before_a_period_without_any() -> None:
    rate = ArrivalRate(1.0)
    for now in (5.0, 7.5):
        rate.observe(3, now)
    assert rate.per_second(8.0) == pytest.approx(3 / 0.5)


@given(st.floats(1, 1000), st.integers(1, 5), st.floats(0.05, 2))
def test_a_steady_stream_has_its_rate(per_second: float, rows: int, period: float) -> None:
    rate = ArrivalRate(period)
    count = int(per_second * period * 4) + 10
    for number in range(count):
        rate.observe(rows, 100 + number / per_second)
    now = 100 + (count - 1) / per_second
    assert rate.per_second(now) == pytest.approx(per_second * rows, rel=1.1 / (per_second * period) + 0.01)
