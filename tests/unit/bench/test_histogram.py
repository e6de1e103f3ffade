from __future__ import annotations

import base64
import math
import zlib

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


@pytest.mark.parametrize("place", [0, 12, 16, 24], ids=["cookie", "digits", "lowest", "highest"])
def test_another_layout_is_refused(place: int):
    packed = base64.b64decode(Histogram.of(np.array([0.001])).encoded())
    plain = bytearray(zlib.decompress(packed[8:]))
    plain[place + 3] ^= 1
    text = base64.b64encode(packed[:8] + zlib.compress(bytes(plain))).decode()
    with pytest.raises(EncodingInvalid, match="expected 3 digits from 1 to 3600000000, got "):
        Histogram.decoded(text)


@pytest.mark.parametrize(("steps", "fits"), [(23_551, True), (23_552, False), (10**6, False)])
def test_no_more_steps_are_read_than_the_layout_has(steps: int, fits: bool):
    """A run of steps without a count, then one with; the layout has 23,552."""
    packed = base64.b64decode(Histogram.of(np.array([])).encoded())
    payload = leb128(2 * steps - 1) + leb128(2)
    text = base64.b64encode(packed[:8] + zlib.compress(zlib.decompress(packed[8:]) + payload)).decode()
    if fits:
        assert Histogram.decoded(text).total == 1
    else:
        with pytest.raises(EncodingInvalid, match="more counts than the layout has"):
            Histogram.decoded(text)


def test_no_count_is_larger_than_an_array_holds():
    packed = base64.b64decode(Histogram.of(np.array([])).encoded())
    for count, fits in ((2**63 - 1, True), (2**63, False)):
        text = base64.b64encode(packed[:8] + zlib.compress(zlib.decompress(packed[8:]) + leb128(2 * count))).decode()
        if fits:
            assert Histogram.decoded(text).total == count
        else:
            with pytest.raises(EncodingInvalid, match="more than 64 bits"):
                Histogram.decoded(text)


def leb128(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + leb128(rest) if rest else bytes([low])


def test_equal_ones_are_equal_keys_and_nothing_else_is_equal():
    one, same, other = (Histogram.of(np.array([seconds])) for seconds in (0.001, 0.001, 0.002))
    assert {one: "found"}[same] == "found"
    assert one != other
    assert one != one.counts.tolist()


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


@pytest.mark.parametrize("text", ["", "no base64", base64.b64encode(b"x" * 40).decode(), FOREIGN[:-8]])
def test_other_texts_are_refused(text: str):
    with pytest.raises(EncodingInvalid, match="expected a compressed V2 histogram"):
        Histogram.decoded(text)
