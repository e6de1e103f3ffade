from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.histogram import EncodingInvalid, Histogram

LATENCIES = st.lists(st.floats(0, 4000), max_size=50).map(np.array)
# What HdrHistogram's own Python library (0.10.8) reads as 1 ms, twice 2 ms and 0.5 s.
FOREIGN = "HISTFAAAACl42pNpmSzMwMDAyQABzFCaEURcm7yEwf4DROA8P9NZfpb59UwAiuYHcA=="


@given(LATENCIES, LATENCIES, LATENCIES)
def test_merging_is_a_sum(one: np.ndarray, two: np.ndarray, three: np.ndarray):
    a, b, c = Histogram.of(one), Histogram.of(two), Histogram.of(three)
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a == Histogram.of(np.concatenate([one, two]))
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
    assert Histogram.decoded(histogram.encoded()) == histogram


def test_the_text_form_is_that_of_other_libraries():
    assert Histogram.decoded(FOREIGN) == Histogram.of(np.array([0.001, 0.002, 0.002, 0.5]))


def test_nothing_has_no_percentiles():
    nothing = Histogram.of(np.array([]))
    assert math.isnan(nothing.percentile(99))
    assert set(nothing.percentiles().values()) == {None}


@pytest.mark.parametrize("text", ["", "no base64", base64.b64encode(b"x" * 40).decode(), FOREIGN[:-8]])
def test_other_texts_are_refused(text: str):
    with pytest.raises(EncodingInvalid, match="expected a compressed V2 histogram"):
        Histogram.decoded(text)
