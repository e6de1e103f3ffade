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
    assert refusal.holds_for(make_request(1.0, 2.0, deadline=NOW + LIMIT, handicap=0.01), 3, NOW)
    assert refusal.holds_for(make_request(1.0, 2.0, 3.0, deadline=FINISH, handicap=0.02), 3, NOW + 0.0015)


def test_holds_for_nobody_else(refusal: Refusal) -> None:
    values, deadline = (1.0, 2.0), NOW + LIMIT
    assert not refusal.holds_for(make_request(*values, deadline=deadline, handicap=0.01), 3, NOW + 0.0017), "stale"
    assert not refusal.holds_for(make_request(*values, deadline=deadline, handicap=0.01), 4, NOW), "there is room"
    assert not refusal.holds_for(make_request(*values, deadline=FINISH + 0.001, handicap=0.01), 3, NOW), "more patient"
    assert not refusal.holds_for(make_request(1.0, deadline=deadline, handicap=0.01), 3, NOW), "smaller"
    assert not refusal.holds_for(make_request(*values, deadline=deadline), 3, NOW), "goes first"
    other = make_request(*values, deadline=deadline, handicap=0.01, group="letters")
    assert not refusal.holds_for(other, 3, NOW), "another group"
