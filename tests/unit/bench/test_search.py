from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.slo.confidence import Verdict, least_requests
from bench.slo.search import Found, Probe, RateSearch


def run(search: RateSearch, capacity: float, share_above: float = 1.0, seed: int | None = None) -> tuple[Found, int]:
    """Search a server that misses 0.1 % up to its capacity, and more above it; return how many probes it took."""
    random = None if seed is None else np.random.default_rng(seed)
    for number in range(1000):
        step = search.next()
        if isinstance(step, Found):
            return step, number
        share = 0.001 if step.rate <= capacity else share_above
        requests = max(step.requests, round(step.rate * 10))
        search.tell(requests, int(requests * share) if random is None else int(random.binomial(requests, share)))
    raise AssertionError("it never ends")


@given(st.floats(0.5, 1e5), st.floats(0.5, 1e5), st.floats(0.01, 0.5))
def test_the_capacity_is_bracketed(capacity: float, start: float, precision: float):
    found, probes = run(RateSearch(start, precision=precision, max_rates=60), capacity)
    assert found.narrow
    assert found.passed is not None
    assert found.failed is not None
    assert found.passed <= capacity < found.failed <= found.passed * (1 + precision)
    assert probes <= 60


@given(st.integers(0, 2**32))
def test_chance_does_not_lead_it_astray(seed: int):
    """Above the capacity twice as many are missed as may be; the doubt is 1 % for the whole search, and none is met."""
    found, _ = run(RateSearch(100.0), 1000.0, share_above=0.02, seed=seed)
    assert found.passed is not None
    assert 900 <= found.passed <= 1000


def test_the_undecided_are_looked_at_again_and_have_not_passed_in_the_end():
    search = RateSearch(100.0, max_looks=3)
    for _ in range(3):
        step = search.next()
        assert isinstance(step, Probe)
        assert step.rate == 100.0
        assert search.tell(2000, 20) is Verdict.UNDECIDED
    step = search.next()
    assert isinstance(step, Probe)
    assert step.rate == 50.0


def test_looks_add_up():
    search = RateSearch(100.0)
    first = search.next()
    assert isinstance(first, Probe)
    assert search.tell(first.requests, 1) is Verdict.UNDECIDED
    second = search.next()
    assert isinstance(second, Probe)
    assert 0 < second.requests < first.requests
    assert search.tell(second.requests, 0) is Verdict.PASSED


def test_a_new_rate_is_looked_at_from_the_beginning():
    search = RateSearch(100.0)
    first = search.next()
    assert isinstance(first, Probe)
    search.tell(first.requests, 1)
    search.tell(2 * first.requests, 0)
    assert search.next() == Probe(200.0, first.requests)


def test_every_look_at_every_rate_has_its_part_of_the_doubt():
    step = RateSearch(100.0, confidence=0.9, max_rates=10, max_looks=2).next()
    assert isinstance(step, Probe)
    assert step.requests == least_requests(0.01, 0.1 / 20)


def test_a_probe_asks_for_one_request_at_least():
    search = RateSearch(100.0)
    first = search.next()
    assert isinstance(first, Probe)
    assert search.tell(10 * first.requests, first.requests // 10) is Verdict.UNDECIDED
    again = search.next()
    assert isinstance(again, Probe)
    assert again.requests >= 1


def test_it_ends_when_the_rates_are_near_to_each_other():
    found, probes = run(RateSearch(100.0, precision=0.5), 110.0)
    assert (found.passed, found.narrow) == (100.0, True)
    assert probes <= 5, "100, 200 and 141, some of them looked at twice"


def test_a_server_that_never_passes():
    found, probes = run(RateSearch(100.0, max_rates=5), 0.0)
    assert found == Found(None, 100.0 / 16, narrow=False)
    assert probes == 5


def test_a_server_that_always_passes():
    found, _ = run(RateSearch(100.0, max_rates=5), 1e9)
    assert found == Found(1600.0, None, narrow=False)


def test_a_rate_can_be_given_up():
    search = RateSearch(100.0)
    search.give_up_rate()
    step = search.next()
    assert isinstance(step, Probe)
    assert step.rate == 50.0


def test_confidence_costs_requests():
    some, more = (RateSearch(1.0, confidence=confidence).next() for confidence in (0.9, 0.999))
    assert isinstance(some, Probe)
    assert isinstance(more, Probe)
    assert some.requests < more.requests


def test_no_rate_is_tried_that_would_take_too_long():
    search = RateSearch(100.0, max_seconds=60.0)
    found, probes = run(search, 0.0)
    assert (found.passed, found.narrow) == (None, False)
    assert probes <= 4
    assert found.failed is not None
    lowest = RateSearch(found.failed).next()
    assert isinstance(lowest, Probe)
    assert lowest.requests / found.failed <= 60 < lowest.requests / (found.failed / 2)
    assert "give a lower --start-rate" in (found.why or "")


def test_the_first_rate_may_take_as_long_as_it_takes():
    found, _ = run(RateSearch(1.0, max_seconds=60.0), 1.5)
    assert found.passed is not None
    assert found.why is None


def test_a_search_can_be_stopped():
    search = RateSearch(100.0)
    search.tell(1000, 1000)
    search.stop("the server is dead")
    assert search.next() == Found(None, 100.0, narrow=False, why="the server is dead")
