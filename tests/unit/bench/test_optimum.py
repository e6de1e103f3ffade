"""The most that could be answered in time."""

from __future__ import annotations

import itertools
import math
from argparse import ArgumentTypeError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import OptionsInvalid
from bench.slo.optimum import BatchCosts, most_in_time

COSTS = BatchCosts.parse("4:0.016,1:0.01")
FALLING = BatchCosts.parse("1:0.025,2:0.012,3:0.03,4:0.009")  # as measured, where a larger bucket happens to be quicker


def test_costs_are_those_of_the_next_size() -> None:
    assert [COSTS(size) for size in (1, 2, 3, 4)] == [0.01, 0.016, 0.016, 0.016]
    assert BatchCosts.parse(str(COSTS)) == COSTS


@pytest.mark.parametrize("text", ["", "1", "1:", "0:1", "1:0", "1:nan", "1:inf", "a:1", "1:1:1", "1:-1"])
def test_what_are_no_costs(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected SIZE:SECONDS"):
        BatchCosts.parse(text)


def test_the_fluid_bound_is_of_batches_within_the_limit() -> None:
    assert COSTS.fluid_bound(0.1) == pytest.approx(250)
    assert COSTS.fluid_bound(0.012) == pytest.approx(100)
    assert COSTS.fluid_bound(0.005) == 0


def test_costs_of_requests_of_several_rows() -> None:
    costs = BatchCosts.parse("1:0.01,2:0.012,4:0.016,5:0.02,8:0.03")
    assert costs.of_requests(1) == costs
    assert costs.of_requests(2) == BatchCosts.parse("1:0.012,2:0.016,4:0.03")
    assert [costs.of_requests(3)(count) for count in (1, 2)] == [costs(3), costs(6)]
    assert costs.of_requests(4).fluid_bound(0.1) == pytest.approx(2 / 0.03)
    with pytest.raises(OptionsInvalid, match="no batch holds the 9 rows"):
        costs.of_requests(9)


def by_trying(arrivals: list[float], limit: float, costs: BatchCosts) -> int:
    """The same by trying every choice of who is served and every division into batches."""
    best = 0
    for chosen in itertools.product((False, True), repeat=len(arrivals)):
        served = list(itertools.compress(arrivals, chosen))
        for cuts in itertools.product((False, True), repeat=max(len(served) - 1, 0)):
            batches: list[list[float]] = []
            for arrival, cut in zip(served, (True, *cuts), strict=False):
                if cut:
                    batches.append([arrival])
                else:
                    batches[-1].append(arrival)
            free, in_time = -math.inf, all(len(batch) <= costs.sizes[-1] for batch in batches)
            for batch in batches:
                if in_time:
                    free = max(free, batch[-1]) + costs(len(batch))
                    in_time = free <= batch[0] + limit
            if in_time:
                best = max(best, len(served))
    return best


@pytest.mark.parametrize("costs", [COSTS, FALLING])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.sampled_from([0.005, 0.0125, 0.0201, 0.0401]))
def test_is_what_trying_everything_finds(costs: BatchCosts, instants: list[int], limit: float) -> None:
    arrivals = sorted(instant / 1000 for instant in instants)
    assert most_in_time(arrivals, limit, costs) == by_trying(arrivals, limit, costs)


def test_a_larger_batch_may_be_in_time_where_a_smaller_is_not() -> None:
    assert most_in_time([0.0, 0.001, 0.002, 0.003], 0.0125, FALLING) == 4


def test_many_stay_within_the_fluid_bound() -> None:
    arrivals = [number / 1000 for number in range(3000)]
    best = most_in_time(arrivals, 0.05, COSTS)
    assert 0.98 * COSTS.fluid_bound(0.05) * 3 < best <= COSTS.fluid_bound(0.05) * 3.05


def test_of_none_none_is_in_time() -> None:
    assert most_in_time([], 0.05, COSTS) == 0
