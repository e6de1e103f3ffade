"""How wrong the predictions were, and what follows from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.foresight import Foresight
from service.batching.request import PendingRequest
from tests.fakes import make_request

NOW = 100.0


def predicted(seconds: float) -> PendingRequest:
    request = make_request(arrival=NOW)
    request.expected = NOW + seconds
    return request


def test_predictions_that_hold_are_trusted() -> None:
    foresight = Foresight()
    for _ in range(100):
        foresight.observe([predicted(0.01)], NOW + 0.009)
    assert foresight.factor == 1.0


def test_waits_that_take_longer_make_it_careful() -> None:
    foresight = Foresight()
    for _ in range(200):
        foresight.observe([predicted(0.01)], NOW + 0.013)
    assert foresight.factor == pytest.approx(1.3, abs=0.01)


def test_what_varies_is_allowed_for() -> None:
    foresight = Foresight()
    for _ in range(200):
        foresight.observe([predicted(0.01)], NOW + 0.008)
        foresight.observe([predicted(0.01)], NOW + 0.012)
    assert 1.15 < foresight.factor < 1.25


def test_a_pause_of_the_machine_is_soon_forgotten_even_if_nobody_is_let_in() -> None:
    foresight = Foresight()
    foresight.observe([predicted(0.01)], NOW + 60.0)
    assert foresight.factor == pytest.approx(1 + 3 / 16 + 3 / 8)
    for _ in range(60):
        foresight.observe([make_request()], NOW)
    assert foresight.factor < 1.02


@given(st.lists(st.tuples(st.floats(1e-6, 10), st.floats(0, 1e6)), max_size=50))
def test_the_factor_is_bounded(waits: list[tuple[float, float]]) -> None:
    foresight = Foresight()
    for expected, actual in waits:
        foresight.observe([predicted(expected)], NOW + actual)
        assert 1.0 <= foresight.factor <= 8.0
