from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import OptionsInvalid
from bench.load.arrivals import Arrivals, Bursts, Constant, Gamma, Trace, parse_trace, read_trace, schedule
from bench.load.plan import Terms, closed_loop, open_loop

PROCESSES = st.one_of(
    st.just(Constant()),
    st.builds(Gamma, st.floats(0.2, 4.0)),
    st.builds(Bursts, st.floats(0.05, 2.0), st.floats(0.05, 2.0)),
    st.lists(st.floats(0, 5), min_size=2, max_size=20).map(
        lambda recorded: Trace(tuple(np.cumsum([0.0, *recorded, 0.1]).tolist()))
    ),
)
RATES = st.floats(1.0, 500.0)
LENGTHS = st.floats(0.1, 20.0)
SEEDS = st.integers(0, 2**32)


@given(PROCESSES, RATES, LENGTHS, SEEDS)
def test_instants_ascend_within_the_window(arrivals: Arrivals, rate: float, seconds: float, seed: int):
    instants = schedule(arrivals, rate, seconds, seed)
    assert np.all(np.diff(instants) >= 0)
    assert np.all((instants >= 0) & (instants < seconds))


@given(PROCESSES, RATES, LENGTHS, SEEDS)
def test_a_seed_fixes_everything(arrivals: Arrivals, rate: float, seconds: float, seed: int):
    assert np.array_equal(schedule(arrivals, rate, seconds, seed), schedule(arrivals, rate, seconds, seed))


@given(RATES, LENGTHS, SEEDS)
def test_another_seed_is_another_schedule(rate: float, seconds: float, seed: int):
    one, other = schedule(Gamma(), rate, seconds, seed), schedule(Gamma(), rate, seconds, seed + 1)
    assert not len(one) or not np.array_equal(one, other)


@given(
    st.one_of(st.just(Constant()), st.builds(Gamma, st.floats(0.2, 3.0))), st.floats(50.0, 500.0), SEEDS
)  # fmt: skip
def test_the_mean_rate_is_kept(arrivals: Constant | Gamma, rate: float, seed: int):
    variation = arrivals.variation if isinstance(arrivals, Gamma) else 0.0
    count = len(schedule(arrivals, rate, 40.0, seed))
    # A renewal process: standard deviation of the count; a first gap that is drawn alone adds (CV² - 1) / 2.
    spread = variation * math.sqrt(40 * rate)
    assert abs(count - 40 * rate) <= 6 * spread + variation**2 / 2 + 1


@given(st.floats(0.3, 3.0), SEEDS)
def test_gaps_vary_as_asked_for(variation: float, seed: int):
    gaps = np.diff(schedule(Gamma(variation), 1000.0, 40.0, seed))
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(variation, rel=0.25)


def test_constant_is_constant():
    assert schedule(Constant(), 4.0, 1.0, 0).tolist() == [0.0, 0.25, 0.5, 0.75]


@given(st.floats(0.1, 1.0), st.floats(0.1, 1.0), RATES, SEEDS)
def test_between_bursts_nothing_comes(on: float, off: float, rate: float, seed: int):
    instants = schedule(Bursts(on, off), rate, 10.0, seed)
    assert np.all(instants % (on + off) <= on + 1e-6)


def test_bursts_keep_the_mean_rate():
    assert len(schedule(Bursts(0.5, 1.5), 1000.0, 40.0, 3)) == pytest.approx(40_000, rel=0.05)


def test_a_trace_comes_as_recorded_and_again():
    trace = Trace((0.0, 0.1, 0.5, 1.5))
    assert trace.rate == 2.0
    expected = [0.0, 0.1, 0.5, 1.5, 2.0, 2.1, 2.5]
    assert schedule(trace, 2.0, 3.0, 0) == pytest.approx(expected)
    assert schedule(trace, 4.0, 1.5, 0) == pytest.approx([instant / 2 for instant in expected])


@given(PROCESSES, st.integers(1, 7), SEEDS)
def test_a_plan_does_not_change_with_the_number_of_processes(arrivals: Arrivals, processes: int, seed: int):
    (alone,) = open_loop(arrivals, 50.0, 5.0, seed, Terms(5, 1, None, 1.0))
    parts = open_loop(arrivals, 50.0, 5.0, seed, Terms(5, processes, None, 1.0))
    assert alone.instants is not None
    sent = [(instant, pick) for part in parts for instant, pick in zip(part.instants, part.picks, strict=True)]
    assert sorted(sent) == sorted(zip(alone.instants, alone.picks, strict=True))


def test_more_requests_than_fit_into_memory_are_refused_before_they_are_planned():
    with pytest.raises(OptionsInvalid, match=r"1e[+]09 requests a second for 32 s are more than 20,000,000"):
        open_loop(Constant(), 1e9, 32.0, 0, Terms(1, 1, None, 1.0))


@given(st.integers(1, 100), st.integers(1, 8))
def test_a_closed_loop_shares_its_calls(concurrency: int, processes: int):
    plans = closed_loop(concurrency, 1.0, 0, Terms(3, processes, None, 1.0))
    assert sum(plan.concurrency for plan in plans) == concurrency


def test_traces_are_read():
    assert parse_trace(["instant,size", "10.5,3", "", "11.0,4", "12.5"]) == Trace((0.0, 0.5, 2.0))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "expected at least two different instants"),
        (["1.0", "1.0"], "expected at least two different instants"),
        (["1.0", "0.5"], "line 2: expected at least 1.0, as in the line before, got 0.5"),
        (["1.0", "x"], "line 2: expected seconds, got 'x'"),
        (["0", "nan"], "line 2: expected seconds, got 'nan'"),
    ],
)
def test_what_is_no_trace_is_refused(lines: list[str], message: str):
    with pytest.raises(OptionsInvalid) as caught:
        parse_trace(lines)
    assert str(caught.value) == message


def test_a_trace_names_its_file(tmp_path: Path):
    with pytest.raises(OptionsInvalid, match=r"absent\.csv: No such file"):
        read_trace(tmp_path / "absent.csv")
