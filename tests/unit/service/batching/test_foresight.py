"""Who was promised an answer in vain, and how careful that makes the door."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.foresight import Foresight

NOW = 100.0


def test_predictions_are_trusted_at_first() -> None:
    assert Foresight(15).factor(NOW) == 1.0


def test_a_promise_that_is_not_kept_makes_it_careful_and_refusals_make_it_bolder() -> None:
    foresight = Foresight(15)
    foresight.was_wrong(10)
    assert foresight.factor(NOW) == pytest.approx(1.2)
    foresight.refused(1000)
    assert foresight.factor(NOW) == pytest.approx(1.2 - 0.06)


@pytest.mark.parametrize("real", [1.0, 1.2, 1.5])
def test_of_those_who_are_not_answered_nearly_all_are_refused_at_the_door(real: float) -> None:
    """Waits are off by ``real`` and vary; limits are such that about half cannot be kept; 1,000 arrivals a second."""
    foresight, generator = Foresight(15), random.Random(0)
    refused = wrong = unneeded = 0
    for number in range(60_000):
        predicted = generator.uniform(0.0, 2.0)
        actual = predicted * real * generator.gauss(1.0, 0.05)
        settled = number >= 30_000
        if predicted * foresight.factor(NOW + number / 1000) > 1.0:
            foresight.refused(1)
            refused += settled
            unneeded += settled and actual <= 1.0
        elif actual > 1.0:
            foresight.was_wrong(1)
            wrong += settled
    assert 0.003 < wrong / (refused + wrong) < 0.02
    assert unneeded / refused < 0.15


def test_those_who_ask_for_the_impossible_do_not_make_it_bolder_than_it_was() -> None:
    foresight = Foresight(15)
    foresight.refused(10**6)
    assert foresight.factor(NOW) == 1.0


def test_a_pause_of_the_machine_counts_as_one_batch_and_is_forgotten_in_seconds() -> None:
    foresight = Foresight(15)
    foresight.was_wrong(1000)
    assert foresight.factor(NOW) == pytest.approx(1.3)
    assert foresight.factor(NOW + 10) == pytest.approx(1 + 0.3 / 2.718, abs=0.001)
    assert foresight.factor(NOW + 60) < 1.001


def test_it_never_takes_a_wait_for_more_than_twice_as_long() -> None:
    foresight = Foresight(15)
    for _ in range(10):
        foresight.was_wrong(15)
    assert foresight.factor(NOW) == 2.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**6), st.floats(0, 100)), max_size=50))
def test_the_factor_is_bounded(events: list[tuple[bool, int, float]]) -> None:
    foresight, now = Foresight(15), NOW
    for good, count, seconds in events:
        now += seconds
        (foresight.refused if good else foresight.was_wrong)(count)
        assert 1.0 <= foresight.factor(now) <= 2.0
