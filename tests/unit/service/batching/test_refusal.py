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


def test_holds_for_who_asks_for_no_less(refusal: Refusal) -> None:
    assert refusal.holds_for(2, "numbers", NOW + LIMIT, 0.01, 3, NOW)
    assert refusal.holds_for(3, "numbers", FINISH, 0.02, 3, NOW + 0.0007)


@pytest.mark.parametrize(
    ("rows", "group", "deadline", "handicap", "departures", "now"),
    [
        pytest.param(2, "numbers", NOW + LIMIT, 0.01, 3, NOW + 0.0009, id="stale"),
        pytest.param(2, "numbers", NOW + LIMIT, 0.01, 4, NOW, id="somebody left"),
        pytest.param(2, "numbers", FINISH + 0.001, 0.01, 3, NOW, id="more patient"),
        pytest.param(1, "numbers", NOW + LIMIT, 0.01, 3, NOW, id="smaller"),
        pytest.param(2, "numbers", NOW + LIMIT, 0.0, 3, NOW, id="goes first"),
        pytest.param(2, "letters", NOW + LIMIT, 0.01, 3, NOW, id="another group"),
        pytest.param(2, "numbers", NOW, 0.01, 3, NOW, id="its deadline has passed, which is another matter"),
    ],
)
def test_holds_for_nobody_else(
    refusal: Refusal, rows: int, group: str, deadline: float, handicap: float, departures: int, now: float
) -> None:
    assert not refusal.holds_for(rows, group, deadline, handicap, departures, now)
