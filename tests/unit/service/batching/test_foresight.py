"""How wrong the predictions were, and what follows from it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.foresight import Foresight


def test_predictions_are_trusted_at_first() -> None:
    assert Foresight(15).factor == 1.0


def test_a_promise_that_is_not_kept_makes_it_careful_and_refusals_make_it_bolder() -> None:
    foresight = Foresight(15)
    foresight.was_wrong(10)
    careful = foresight.factor
    assert careful == pytest.approx(1.2)
    foresight.refused(1000)
    assert foresight.factor == pytest.approx(1.2 - 0.12)


@pytest.mark.parametrize("real", [0.8, 1.0, 1.5])
def test_of_those_who_are_not_answered_nearly_all_are_refused_at_the_door(real: float) -> None:
    """Waits are off by ``real`` and vary; limits are such that about half cannot be kept."""
    foresight, generator = Foresight(15), random.Random(0)
    refused = wrong = unneeded = 0
    for number in range(60_000):
        predicted = generator.uniform(0.0, 2.0)
        actual = predicted * real * generator.gauss(1.0, 0.05)
        settled = number >= 30_000
        if predicted * foresight.factor > 1.0:
            foresight.refused(1)
            refused += settled
            unneeded += settled and actual <= 1.0
        elif actual > 1.0:
            foresight.was_wrong(1)
            wrong += settled
    assert 0.003 < wrong / (refused + wrong) < 0.01
    assert unneeded / refused < 0.15


def test_a_pause_of_the_machine_is_forgotten_by_those_whom_it_refuses() -> None:
    foresight = Foresight(15)
    foresight.was_wrong(1000)
    assert foresight.factor == 2.0
    foresight.refused(8400)
    assert foresight.factor < 1.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**6)), max_size=50))
def test_the_factor_is_bounded(events: list[tuple[bool, int]]) -> None:
    foresight = Foresight(15)
    for good, count in events:
        (foresight.refused if good else foresight.was_wrong)(count)
        assert 0.7 <= foresight.factor <= 2.0
