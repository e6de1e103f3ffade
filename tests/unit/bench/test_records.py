from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import report
from bench.load.histogram import Histogram
from bench.load.records import Records, Run, Summary, generator_limit
from bench.load.sender import _Log
from bench.slo.trials import _line

ENTRIES = st.lists(
    st.tuples(
        st.floats(0, 10),
        st.floats(0, 0.1),
        st.floats(0, 2),
        st.sampled_from([-2, -1, 0, 0, 0, 3, 4, 8, 14]),
        st.booleans(),
    ),
    max_size=40,
)


def records(entries: list[tuple[float, float, float, int, bool]]) -> Records:
    intended, lag, took, code, wrong = (
        (np.array(column) for column in zip(*entries, strict=True))
        if entries
        else (
            np.zeros(0),
            np.zeros(0),
            np.zeros(0),
            np.zeros(0, dtype=int),
            np.zeros(0, dtype=bool),
        )
    )
    return Records(intended, intended + lag, intended + lag + took, code, wrong)


@given(ENTRIES, st.floats(0.1, 3))
def test_every_request_is_counted_once(entries: list[tuple[float, float, float, int, bool]], objective: float):
    summary = Summary.of(records(entries), 10.0, objective)
    counted = (summary.on_time, summary.late, summary.refused, summary.expired, summary.failed, summary.wrong)
    assert sum(counted) == summary.offered == len(entries) == sum(summary.codes.values())
    assert summary.missed == summary.offered - summary.on_time
    assert json.loads(json.dumps(summary.as_json()))["offered"] == len(entries)


@given(ENTRIES, ENTRIES)
def test_runs_add_up(
    one: list[tuple[float, float, float, int, bool]], two: list[tuple[float, float, float, int, bool]]
):
    both = Summary.of(records(one), 10.0, 0.5) + Summary.of(records(two), 10.0, 0.5)
    whole = Summary.of(records(one + two), 20.0, 0.5)
    assert both.as_json() == whole.as_json() | {"codes": both.codes}
    assert dict(both.codes) == whole.codes


@given(ENTRIES, ENTRIES)
def test_processes_merge_in_the_order_of_intended_instants(
    one: list[tuple[float, float, float, int, bool]], two: list[tuple[float, float, float, int, bool]]
):
    merged = Records.merged([records(one), records(two)])
    assert np.all(np.diff(merged.intended) >= 0)
    assert len(merged.intended) == len(one) + len(two)
    assert merged.between(0, 11).intended.tolist() == merged.intended.tolist()
    assert not len(merged.between(11, 12).intended)


def test_what_counts_for_what():
    summary = Summary.of(
        records(
            [
                (1.0, 0.0, 0.04, 0, False),
                (1.1, 0.02, 0.04, 0, False),  # late only since it was sent late: it counts from the intended instant
                (1.2, 0.0, 0.01, 0, True),
                (1.3, 0.0, 0.001, 8, False),
                (1.4, 0.0, 0.002, 14, False),
                (1.5, 0.0, 0.05, 4, False),
                (1.6, 0.0, 0.01, 3, False),
                (1.7, 0.0, 9.0, -1, False),
                (1.8, 0.0, 0.001, -2, False),
            ]
        ),
        2.0,
        0.05,
    )
    assert (summary.on_time, summary.late, summary.wrong, summary.refused) == (1, 1, 1, 2)
    assert (summary.expired, summary.failed) == (1, 3)
    assert summary.goodput == 0.5
    assert summary.latency.encoded() == Histogram.of(np.array([0.04, 0.06, 0.01])).encoded()
    assert summary.refusal_latency.encoded() == Histogram.of(np.array([0.001, 0.002])).encoded()
    assert summary.lag.percentile(100) == pytest.approx(0.02, rel=1e-3)
    text = report.table(summary, Run(records([]), 0.25, 0.125), 0.05, open_loop=True)
    assert "goodput           0.5 /s   right answers within 50 ms" in text
    statuses = "no answer 1, INVALID_ARGUMENT 1, DEADLINE_EXCEEDED 1, RESOURCE_EXHAUSTED 1, UNAVAILABLE 1"
    assert f"statuses: no connection 1, {statuses}" in text
    assert "generator's lag" in text
    assert "taken by the hypervisor: 12.5% of the core that lost most" in text


def test_without_an_objective_nothing_is_late():
    summary = Summary.of(records([(0.0, 0.0, 50.0, 0, False)]), 1.0, None)
    assert (summary.on_time, summary.late) == (1, 0)
    assert "lag" not in report.table(summary, Run(records([]), 0.0), None, open_loop=False)


def test_the_generator_says_when_it_was_the_limit():
    late = Summary.of(records([(0.0, 0.01, 0.0, 0, False)] * 10), 1.0, None)
    prompt = Summary.of(records([(0.0, 0.0, 0.0, 0, False)] * 10), 1.0, None)
    assert generator_limit(prompt, 0.5, 0.001) is None
    assert "p99 of its lag is 10.01 ms, expected at most 1.00 ms" in (generator_limit(late, 0.5, 0.001) or "")
    assert "a client process used 99% of a core" in (generator_limit(prompt, 0.99, 0.001) or "")
    assert generator_limit(Summary.of(records([]), 1.0, None), 0.0, 0.001) is None


def test_a_rate_at_which_nothing_was_ok_has_no_percentile():
    summary = Summary.of(records([(1.0, 0.0, 0.001, 8, False)]), 1.0, 0.05)
    assert "1 of       1 missed  p99 of OK         - ms  failed" in _line(50.0, summary, "failed")


def test_a_request_is_noted_in_a_few_bytes():
    """A run may have millions of them."""
    log, count = _Log(), 20_000
    tracemalloc.start()
    try:
        for tag in range(count):
            log.begin(tag / 7)
            log.ended[tag] = tag / 3
        noted, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert noted / count < 24
    log.wrong.append(5)
    kept = log.records(None)
    assert np.array_equal(kept.intended, kept.sent)
    assert kept.wrong.nonzero()[0].tolist() == [5]
