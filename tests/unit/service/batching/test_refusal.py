"""For whom a refusal holds."""

from __future__ import annotations

import pytest

from service.batching.refusal import Refusal
from tests.fakes import make_request

NOW = 100.0
LIMIT = 0.05
FINISH = NOW + 0.08


@pytest.fixture
def refusal() -> Refusal:
    return Refusal(make_request(1.0, 2.0, deadline=NOW + LIMIT, handicap=0.01), FINISH, queued=7, departures=3, now=NOW)


def test_says_what_was_found(refusal: Refusal) -> None:
    error = refusal.error()
    assert error.message == "the answer would take 0.080 s, the deadline leaves 0.050 s"
    assert error.facts == {"queued": "7", "predicted_seconds": "0.080000"}
    assert error.retry_after_seconds == pytest.approx(0.03)


def test_is_for_who_asks_for_no_less(refusal: Refusal) -> None:
    assert refusal.is_for(2, "numbers", 0.01)
    assert refusal.is_for(3, "numbers", 0.02)


@pytest.mark.parametrize(
    ("rows", "group", "handicap"),
    [
        pytest.param(1, "numbers", 0.01, id="smaller"),
        pytest.param(2, "numbers", 0.0, id="goes first"),
        pytest.param(2, "letters", 0.01, id="another group"),
    ],
)
def test_is_for_nobody_else(refusal: Refusal, rows: int, group: str, handicap: float) -> None:
    assert not refusal.is_for(rows, group, handicap)


def test_holds_for_a_moment(refusal: Refusal) -> None:
    assert refusal.holds(NOW + LIMIT, 3, NOW)
    assert refusal.holds(FINISH, 3, NOW + 0.0007)


@pytest.mark.parametrize(
    ("deadline", "departures", "now"),
    [
        pytest.param(NOW + LIMIT, 3, NOW + 0.0009, id="stale"),
        pytest.param(NOW + LIMIT, 4, NOW, id="somebody left"),
        pytest.param(FINISH + 0.001, 3, NOW, id="more patient"),
        pytest.param(NOW, 3, NOW, id="its deadline has passed, which is another matter"),
    ],
)
def test_does_not_hold_any_more(refusal: Refusal, deadline: float, departures: int, now: float) -> None:
    assert not refusal.holds(deadline, departures, now)
