from __future__ import annotations

import numpy as np
import pytest

from bench.load.records import Records, Summary
from bench.slo.confidence import Verdict
from bench.slo.outlook import FEW_RATES, Outlook, seen

OBJECTIVE = 0.05
SERVED = [(0.01, 0)]
LATE, EXPIRED, REFUSED, INVALID = [(0.06, 0)], [(0.05, 4)], [(0.01, 8)], [(0.01, 3)]


def summary(entries: list[tuple[float, int]]) -> Summary:
    """Sum up answers of these latencies and statuses."""
    took, code = np.array([took for took, _ in entries]), np.array([code for _, code in entries], dtype=int)
    sent = np.zeros(len(entries))
    return Summary.of(Records(sent, sent, took, code, np.zeros(len(entries), dtype=bool)), 1.0, OBJECTIVE)


@pytest.mark.parametrize("slow", [LATE, EXPIRED])
def test_calls_that_hardly_meet_and_are_slow_are_the_end(slow: list[tuple[float, int]]):
    mostly = summary([*slow * 6, *SERVED * 4])
    assert Outlook(OBJECTIVE).hopeless(25.0, mostly, Verdict.FAILED) is None  # they may have waited for each other
    assert "higher --objective-seconds" in (Outlook(OBJECTIVE).hopeless(12.5, mostly, Verdict.FAILED) or "")
    assert Outlook(OBJECTIVE, bunched=True).hopeless(12.5, mostly, Verdict.FAILED) is None  # they meet at any rate
    seldom = summary([*slow * 4, *SERVED * 6])
    assert Outlook(OBJECTIVE).hopeless(12.5, seldom, Verdict.FAILED) is None


@pytest.mark.parametrize("missed", [LATE, EXPIRED, REFUSED, INVALID])
def test_nothing_in_time_at_a_few_rates_in_a_row_is_the_end(missed: list[tuple[float, int]]):
    outlook = Outlook(OBJECTIVE)
    said = [outlook.hopeless(1e5 / 2**number, summary(missed * 9), Verdict.FAILED) for number in range(FEW_RATES)]
    assert said[:-1] == [None] * (FEW_RATES - 1)
    assert "check whether the server answers" in (said[-1] or "")


def test_an_answer_in_time_between_them_is_hope():
    outlook = Outlook(OBJECTIVE)
    for number in range(3 * FEW_RATES):
        entries = [*REFUSED * 9, *(SERVED if number % FEW_RATES == 0 else [])]
        assert outlook.hopeless(1e6 / 2**number, summary(entries), Verdict.FAILED) is None


def test_once_a_rate_has_passed_the_search_goes_on():
    outlook = Outlook(OBJECTIVE)
    outlook.hopeless(10.0, summary(SERVED), Verdict.PASSED)
    assert [outlook.hopeless(15.0, summary(EXPIRED), Verdict.FAILED) for _ in range(9)] == [None] * 9


def test_what_was_seen_is_one_line():
    line = seen(12.5, summary([*EXPIRED * 3, *SERVED]))
    assert line == "at 12.50 /s 3 of 4 were missed (OK 1, DEADLINE_EXCEEDED 3; p50 of OK 10.01 ms)"
    assert seen(1.0, summary([])) == "at 1.00 /s 0 of 0 were missed (nothing was sent)"
