from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.slo.confidence import Verdict, at_least, at_most, judge, least_requests


def exact(misses: int, requests: int, probability: Fraction) -> float:
    terms = (
        comb(requests, k) * probability**k * (1 - probability) ** (requests - k)
        for k in range(min(misses, requests) + 1)
    )
    return float(sum(terms))


@given(st.integers(1, 80), st.data(), st.sampled_from([Fraction(1, 100), Fraction(1, 20), Fraction(1, 2)]))
def test_the_tails_are_those_of_the_binomial_distribution(requests: int, data: st.DataObject, probability: Fraction):
    misses = data.draw(st.integers(-1, requests + 1))
    below = exact(misses - 1, requests, probability)
    assert at_most(misses, requests, float(probability)) == pytest.approx(exact(misses, requests, probability), 1e-9)
    assert at_least(misses, requests, float(probability)) == pytest.approx(1 - below, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("misses", [0, 1, 5, 30, 300])
def test_the_fewest_requests_are_the_fewest(misses: int):
    """For 0 misses MLPerf's LoadGen has the same number, 459."""
    fewest = least_requests(0.01, 0.01, misses)
    assert judge(misses, fewest, allowed=0.01, doubt=0.01) is Verdict.PASSED
    assert judge(misses, fewest - 1, allowed=0.01, doubt=0.01) is not Verdict.PASSED
    assert (fewest == 459) == (misses == 0)
    assert misses / fewest < 0.01


@given(st.integers(1, 50_000), st.data())
def test_no_verdict_contradicts_itself(requests: int, data: st.DataObject):
    misses = data.draw(st.integers(0, requests))
    verdict = judge(misses, requests, allowed=0.01, doubt=0.01)
    if verdict is Verdict.PASSED:
        assert misses / requests < 0.01
        assert judge(misses // 2, requests, allowed=0.01, doubt=0.01) is Verdict.PASSED
    if verdict is Verdict.FAILED:
        assert misses / requests > 0.01
        assert judge(min(requests, 2 * misses), requests, allowed=0.01, doubt=0.01) is Verdict.FAILED


def test_few_requests_say_nothing():
    assert judge(0, 100, allowed=0.01, doubt=0.01) is Verdict.UNDECIDED
    assert judge(2, 100, allowed=0.01, doubt=0.01) is Verdict.UNDECIDED
    assert judge(20, 100, allowed=0.01, doubt=0.01) is Verdict.FAILED
