from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.histogram import Histogram
from tests.histograms import decoded

LATENCIES = st.lists(st.floats(0, 4000), max_size=50).map(np.array)
# What HdrHistogram's own Python library (0.10.8) reads as 1 ms, twice 2 ms and 0.5 s.
FOREIGN = "HISTFAAAACl42pNpmSzMwMDAyQABzFCaEURcm7yEwf4DROA8P9NZfpb59UwAiuYHcA=="


@given(LATENCIES, LATENCIES, LATENCIES)
def test_merging_is_a_sum(one: np.ndarray, two: np.ndarray, three: np.ndarray):
    a, b, c = Histogram.of(one), Histogram.of(two), Histogram.of(three)
    assert ((a + b) + c).encoded() == (a + (b + c)).encoded()
    assert (a + b).encoded() == (b + a).encoded() == Histogram.of(np.concatenate([one, two])).encoded()
    assert (a + b).total == len(one) + len(two)


@given(LATENCIES.filter(len), st.floats(0, 100))
def test_a_percentile_is_an_order_statistic_up_to_three_digits(latencies: np.ndarray, percent: float):
    exact = np.sort(np.clip(latencies, 0, 3600))[max(1, math.ceil(percent / 100 * len(latencies) - 1e-9)) - 1]
    assert Histogram.of(latencies).percentile(percent) == pytest.approx(exact, rel=1.1e-3, abs=1.1e-6)


@given(LATENCIES.filter(len), st.floats(0, 100), st.floats(0, 100))
def test_percentiles_ascend(latencies: np.ndarray, one: float, other: float):
    histogram = Histogram.of(latencies)
    assert histogram.percentile(min(one, other)) <= histogram.percentile(max(one, other))


@given(LATENCIES)
def test_the_text_form_loses_nothing(latencies: np.ndarray):
    histogram = Histogram.of(latencies)
    assert decoded(histogram.encoded()).counts.tolist() == histogram.counts.tolist()


def test_the_text_form_is_that_of_other_libraries():
    same = Histogram.of(np.array([0.001, 0.002, 0.002, 0.5]))
    assert decoded(FOREIGN).counts.tolist() == same.counts.tolist()


def test_the_usual_percentiles_have_their_names():
    found = Histogram.of(np.arange(1, 2001) / 1000).percentiles()
    assert found == {
        "p50": pytest.approx(1.0, rel=1.1e-3),
        "p90": pytest.approx(1.8, rel=1.1e-3),
        "p95": pytest.approx(1.9, rel=1.1e-3),
        "p99": pytest.approx(1.98, rel=1.1e-3),
        "p99.9": pytest.approx(1.998, rel=1.1e-3),
        "max": pytest.approx(2.0, rel=1.1e-3),
    }


def test_nothing_has_no_percentiles():
    nothing = Histogram.of(np.array([]))
    assert math.isnan(nothing.percentile(99))
    assert set(nothing.percentiles().values()) == {None}
